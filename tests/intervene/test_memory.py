"""Retrieval: exact cosines, each entry at its own layer, ranked and cut."""

import numpy as np
import pytest
import torch

from stir_core.config import GateConfig
from stir_core.intervene.memory import Memory
from tests.builders import make_entry as entry

KEYS = np.array([[1, 0, 0], [0, 2, 0], [1, 1, 0], [0, 0, 5], [1, 0, 0]], np.float32)
ENTRIES = (entry("a", 1, 2), entry("b", 1, 2, 0.5), entry("c", 1, 2, kind="null"), entry("d", 1, 3), entry("e", 2, 2))


@pytest.fixture
def memory():
    return Memory(ENTRIES, KEYS, KEYS)


STATES = {2: torch.tensor([3.0, 0.0, 0.0]), 3: torch.tensor([0.0, 1.0, 1.0])}


def test_every_entry_is_compared_at_its_own_layer(memory):
    found, reason = memory.retrieve(1, STATES, GateConfig())
    assert reason is None
    root = 2**-0.5
    assert [(e.entry_id, pytest.approx(e.sim, abs=1e-6)) for e in found] == [("a", 1.0), ("c", root), ("d", root), ("b", 0.0)]
    assert {e.entry_id: e.value for e in found}["b"] == pytest.approx(0.0)


def test_top_k_and_control_point(memory):
    assert [e.entry_id for e in memory.retrieve(1, STATES, GateConfig(k_retrieve=2))[0]] == ["a", "c"]
    assert [e.entry_id for e in memory.retrieve(2, STATES, GateConfig())[0]] == ["e"]
    assert memory.count(1) == 4 and memory.layers == (2, 3)


def test_value_is_cosine_times_quality():
    memory = Memory((entry("b", 1, 2, 0.5),), KEYS[1:2], KEYS[1:2])
    (found,), _ = memory.retrieve(1, {2: torch.tensor([0.0, 3.0, 4.0])}, GateConfig())
    assert (found.sim, found.value) == (pytest.approx(0.6), pytest.approx(0.3))


@pytest.mark.parametrize(
    ("m", "changes", "reason"),
    [
        (5, {}, ("too_few_entries", 0, 1)),
        (1, {"min_entries": 5}, ("too_few_entries", 4, 5)),
        (2, {"min_sim": 0.99}, None),
    ],
)
def test_why_nothing_is_retrieved(memory, m, changes, reason):
    found, why = memory.retrieve(m, STATES, GateConfig(**changes))
    assert (found == ()) is (reason is not None)
    assert why is None if reason is None else (why.kind, why.value, why.limit) == reason


def test_the_best_cosine_below_min_sim_retrieves_nothing(memory):
    found, why = memory.retrieve(2, {2: torch.tensor([1.0, 1.0, 0.0])}, GateConfig(min_sim=0.9))
    assert found == () and why is not None and str(why) == "best cosine 0.707 < min_sim 0.9"


def test_ties_beyond_the_cut_are_settled_by_library_order():
    entries = tuple(entry(f"t{i}", 1, 2) for i in range(9))
    memory = Memory(entries, np.tile(np.array([[1.0, 1.0, 0.0]], np.float32), (9, 1)), np.zeros((9, 3), np.float32))
    assert [e.entry_id for e in memory.retrieve(1, STATES, GateConfig(k_retrieve=4))[0]] == ["t0", "t1", "t2", "t3"]
