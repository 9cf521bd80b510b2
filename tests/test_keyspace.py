"""Key spaces: centring and whitening against their definitions, and retrieval in each space."""

import numpy as np
import pytest
import torch

from stir_core.config import GateConfig
from stir_core.intervene.memory import Memory
from stir_core.keyspace import apply_space, fit_space
from tests.builders import make_entry

RNG = np.random.default_rng(0)
COMMON = 20 * np.ones(6)
KEYS = (COMMON + RNG.standard_normal((40, 6)) * [5, 1, 1, 1, 1, 0.2]).astype(np.float32)
LAYERS = [3] * 30 + [7] * 10


def cosines(rows):
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units @ units.T


def test_the_plain_space_changes_nothing():
    assert apply_space(fit_space("cosine", KEYS, LAYERS), KEYS, LAYERS) is KEYS


def test_centring_subtracts_each_layers_mean():
    moved = apply_space(fit_space("centred", KEYS, LAYERS), KEYS, LAYERS)
    assert moved[:30].mean(0) == pytest.approx(0, abs=1e-5) and moved[30:].mean(0) == pytest.approx(0, abs=1e-5)
    assert cosines(KEYS).mean() > 0.9 and abs(cosines(moved[:30]).mean()) < 0.1


def test_whitening_equalises_the_variances():
    many = (COMMON + np.random.default_rng(1).standard_normal((4000, 6)) * [5, 1, 1, 1, 1, 0.2]).astype(np.float32)
    moved = apply_space(fit_space("whitened", many, [3] * 4000), many, [3] * 4000)
    assert np.cov(moved.T) == pytest.approx(np.eye(6), abs=0.15)


def test_fewer_keys_than_dimensions_still_have_a_whitened_space():
    few = RNG.standard_normal((5, 50)).astype(np.float32)
    assert np.isfinite(apply_space(fit_space("whitened", few, [0] * 5), few, [0] * 5)).all()


def test_a_layer_with_one_key_is_not_changed():
    space = fit_space("centred", KEYS[:3], [1, 1, 2])
    assert np.array_equal(apply_space(space, KEYS[:3], [1, 1, 2])[2], KEYS[2].astype(np.float64))
    assert np.array_equal(space.apply(9, KEYS), KEYS)


@pytest.mark.parametrize("kind", ["cosine", "centred", "whitened"])
def test_retrieval_uses_the_key_space(kind):
    entries = tuple(make_entry(f"e{i:02}", 1, layer, key_row=i) for i, layer in enumerate(LAYERS))
    space = fit_space(kind, KEYS, LAYERS)
    memory = Memory(entries, KEYS, np.zeros_like(KEYS), space)
    state = COMMON + RNG.standard_normal(6)
    retrieved, _ = memory.retrieve(1, {3: torch.tensor(state), 7: torch.tensor(state)}, GateConfig(k_retrieve=5))
    expected = []
    for i, layer in enumerate(LAYERS):
        a, b = space.apply(layer, state[None])[0], space.apply(layer, KEYS[i : i + 1].astype(np.float64))[0]
        expected.append((-float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), f"e{i:02}"))
    assert [e.entry_id for e in retrieved] == [name for _, name in sorted(expected)[:5]]
    assert [e.sim for e in retrieved] == pytest.approx([-value for value, _ in sorted(expected)[:5]], abs=1e-4)
