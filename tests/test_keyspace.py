"""Key spaces: centring and whitening against their definitions, and retrieval in each space."""

import numpy as np
import pytest
import torch

from stir_core.config import GateConfig
from stir_core.intervene.memory import Memory
from stir_core.keyspace import apply_space, fit_space
from stir_core.records import MarginThreshold
from tests.builders import make_entry

RNG = np.random.default_rng(0)
COMMON = 20 * np.ones(6)
KEYS = (COMMON + RNG.standard_normal((40, 6)) * [5, 1, 1, 1, 1, 0.2]).astype(np.float32)
PLACES = [(1, 3)] * 30 + [(2, 7)] * 10


def cosines(rows):
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units @ units.T


def test_the_plain_space_changes_nothing():
    assert apply_space(fit_space("cosine", KEYS, PLACES), KEYS, PLACES) is KEYS


def test_centring_subtracts_each_layers_mean():
    moved = apply_space(fit_space("centred", KEYS, PLACES), KEYS, PLACES)
    assert moved[:30].mean(0) == pytest.approx(0, abs=1e-5) and moved[30:].mean(0) == pytest.approx(0, abs=1e-5)
    assert cosines(KEYS).mean() > 0.9 and abs(cosines(moved[:30]).mean()) < 0.1


def test_whitening_equalises_the_variances():
    many = (COMMON + np.random.default_rng(1).standard_normal((4000, 6)) * [5, 1, 1, 1, 1, 0.2]).astype(np.float32)
    moved = apply_space(fit_space("whitened", many, [(1, 3)] * 4000), many, [(1, 3)] * 4000)
    assert np.cov(moved.T) == pytest.approx(np.eye(6), abs=0.15)


def test_fewer_keys_than_dimensions_still_have_a_whitened_space():
    few = RNG.standard_normal((5, 50)).astype(np.float32)
    assert np.isfinite(apply_space(fit_space("whitened", few, [(1, 0)] * 5), few, [(1, 0)] * 5)).all()


def test_a_layer_with_one_key_is_not_changed():
    space = fit_space("centred", KEYS[:3], [(1, 1), (2, 1), (1, 2)])
    assert np.array_equal(apply_space(space, KEYS[:3], [(1, 1), (2, 1), (1, 2)])[2], KEYS[2].astype(np.float64))
    assert np.array_equal(space.apply((1, 9), KEYS), KEYS)


@pytest.mark.parametrize("kind", ["cosine", "centred", "point_centred", "whitened"])
def test_retrieval_uses_the_key_space(kind):
    places = [(1, 3)] * 20 + [(2, 3)] * 10 + [(1, 7)] * 10
    entries = tuple(make_entry(f"e{i:02}", m, layer, key_row=i) for i, (m, layer) in enumerate(places))
    space = fit_space(kind, KEYS, places)
    memory = Memory(entries, KEYS, np.zeros_like(KEYS), space)
    state = COMMON + RNG.standard_normal(6)
    retrieved, _ = memory.retrieve(1, {3: torch.tensor(state), 7: torch.tensor(state)}, GateConfig(k_retrieve=5))
    expected = []
    for i, place in enumerate(places):
        a, b = space.apply(place, state[None])[0], space.apply(place, KEYS[i : i + 1].astype(np.float64))[0]
        expected.append((-float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), f"e{i:02}"))
    there = sorted(pair for pair, (m, _) in zip(expected, places, strict=True) if m == 1)
    assert [e.entry_id for e in retrieved] == [name for _, name in there[:5]]
    assert [e.sim for e in retrieved] == pytest.approx([-value for value, _ in there[:5]], abs=1e-4)


def test_centring_by_control_point_subtracts_the_mean_of_that_control_point_alone():
    places = [(1, 3)] * 20 + [(2, 3)] * 20
    moved = apply_space(fit_space("point_centred", KEYS, places), KEYS, places)
    assert moved[:20].mean(0) == pytest.approx(0, abs=1e-5) and moved[20:].mean(0) == pytest.approx(0, abs=1e-5)
    together = apply_space(fit_space("centred", KEYS, places), KEYS, places)
    assert abs(together[:20].mean(0)).max() > 1e-3


def test_a_calibrated_gate_steers_only_from_a_margin_that_told_wrong_from_right():
    kinds = ("corrective", "corrective", "null", "null")
    entries = tuple(make_entry(f"e{i}", 1, 3, kind=kind, key_row=i) for i, kind in enumerate(kinds))
    keys = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]], np.float32)
    near_wrong, near_right = (torch.tensor(row) for row in ([1.0, 0.1, 0.0], [0.0, 0.1, 1.0]))
    gate = GateConfig(rule="calibrated", k_retrieve=1)

    def margin(threshold, nearest=1):
        return MarginThreshold(m=1, layer=3, states=9, problems=9, auc=0.9, low=0.8, high=0.95, nearest=nearest, threshold=threshold)

    memory = Memory(entries, keys, np.zeros_like(keys), None, [margin(0.5)])
    retrieved, reason = memory.retrieve(1, {3: near_wrong}, gate)
    assert [entry.entry_id for entry in retrieved] == ["e0"] and reason is None
    retrieved, reason = memory.retrieve(1, {3: near_right}, gate)
    assert not retrieved and str(reason) == "key margin -0.925 not above 0.500"
    for margins in ([], [margin(None)]):
        retrieved, reason = Memory(entries, keys, np.zeros_like(keys), None, margins).retrieve(1, {3: near_wrong}, gate)
        assert not retrieved and str(reason).startswith("abstains: no key margin told right from wrong")
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    mean_of_two = (unit[2:] @ near_right.numpy() - unit[:2] @ near_right.numpy()).mean() / np.linalg.norm(near_right)
    retrieved, reason = Memory(entries, keys, np.zeros_like(keys), None, [margin(0.5, nearest=2)]).retrieve(1, {3: near_right}, gate)
    assert not retrieved and reason is not None and reason.value == pytest.approx(-mean_of_two)
    between = Memory(entries, keys[[0, 1, 0, 1]], np.zeros_like(keys), None, [margin(0.0)])  # a tie tells nothing
    assert between.retrieve(1, {3: near_wrong}, gate)[0] == ()
    published, _ = Memory(entries, keys, np.zeros_like(keys), None, [margin(0.5)]).retrieve(1, {3: near_right}, GateConfig(k_retrieve=1))
    assert published[0].kind == "null"
