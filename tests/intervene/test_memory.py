"""Retrieval: exact cosines, each entry at its own layer, ranked and cut."""

import numpy as np
import pytest
import torch

from stir_core.config import GateConfig
from stir_core.errors import ConfigError, StoreError
from stir_core.intervene import memory as retrieval
from stir_core.intervene.memory import Memory, check_gate
from stir_core.intervene.nearest import BYTES_BESIDE, NearestIndex
from stir_core.keyspace import fit_space
from stir_core.store.tensors import MappedRows, write_tensors
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


class Watched(MappedRows):
    """Remembers how many rows each read takes."""

    reads: list[int]

    def __getitem__(self, which):
        found = super().__getitem__(which)
        self.reads.append(len(found))
        return found


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A library of 1,000 entries in a file: two control points, two layers, many equal keys; null entries have no action."""
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((1000, 12)).astype(np.float32)[rng.integers(0, 400, 1000)] + 1
    order = rng.permutation(1000)
    file = tmp_path_factory.mktemp("large") / "actions.safetensors"
    write_tensors(file, {"keys": keys, "actions": keys[:500] - 2})
    entries = tuple(
        entry(
            f"e{i}",
            1 + i % 2,
            2 + i % 3 % 2,
            kind="null" if row >= 500 else "corrective",
            key_row=int(row),
            action_row=int(row) if row < 500 else None,
        )
        for i, row in enumerate(order)
    )
    return file, entries, keys[order], np.where(order[:, None] < 500, keys[order] - 2, 0).astype(np.float32)


@pytest.mark.parametrize("kind", ["cosine", "centred", "point_centred", "whitened"])
def test_a_library_in_its_file_retrieves_the_same_bits_and_reads_a_block_at_a_time(large, kind, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 64)
    file, entries, keys, actions = large
    space = fit_space(kind, keys, [(each.m, each.layer) for each in entries])
    mapped = Watched(file, "keys", [each.key_row for each in entries], columns=12)
    mapped.reads = []
    there = Memory(entries, mapped, MappedRows(file, "actions", [each.action_row for each in entries], columns=12), space)
    here = Memory(entries, keys, actions, space)
    assert mapped.reads == []
    rng, ties = np.random.default_rng(1), 0
    for turn in range(20):
        states = {layer: torch.tensor(rng.standard_normal(12) + 1, dtype=torch.float32) for layer in (2, 3)}
        mapped.reads.clear()
        found, reason = there.retrieve(1 + turn % 2, states, GateConfig(k_retrieve=12))
        assert (found, reason) == here.retrieve(1 + turn % 2, states, GateConfig(k_retrieve=12))
        assert max(mapped.reads) == 64 and sum(mapped.reads) == there.count(1 + turn % 2) == 500
        ties += len(found) - len({each.sim for each in found})
        assert torch.equal(there.action(found[0].entry_id), here.action(found[0].entry_id))
    assert ties > 0
    assert torch.equal(there.raw_keys, here.raw_keys)
    layer = there.at_layer(3)
    assert layer.entries == here.at_layer(3).entries and layer.retrieve(1, states, GateConfig()) == here.at_layer(3).retrieve(
        1, states, GateConfig()
    )


def test_blocks_change_no_cosine_by_more_than_rounding(large, monkeypatch):
    _, entries, keys, actions = large
    state = {layer: torch.ones(12) for layer in (2, 3)}
    whole = Memory(entries, keys, actions).retrieve(1, state, GateConfig(k_retrieve=500))[0]
    monkeypatch.setattr(retrieval, "BLOCK", 7)
    parts = Memory(entries, keys, actions).retrieve(1, state, GateConfig(k_retrieve=500))[0]
    assert {each.entry_id: pytest.approx(each.sim, abs=1e-6) for each in parts} == {each.entry_id: each.sim for each in whole}


def test_a_file_that_is_not_what_it_should_be_is_one_line(large, tmp_path):
    file, bad = large[0], tmp_path / "bad.safetensors"
    write_tensors(bad, {"keys": np.array([[1, np.nan]], np.float32), "whole": np.ones((2, 2), np.int64)})
    for make, said in (
        (lambda: MappedRows(file, "keys", [1000], columns=12), "has 1000 rows, and row 1000"),
        (lambda: MappedRows(file, "keys", [0], columns=13), r"expected floats \[n, 13\]"),
        (lambda: MappedRows(file, "none", [0], columns=12), "not a whole safetensors file"),
        (lambda: MappedRows(bad, "whole", [0], columns=2), "expected floats"),
        (lambda: MappedRows(bad, "keys", [0], columns=2)[:], "not finite"),
    ):
        with pytest.raises(StoreError, match=said):
            make()


def test_an_index_finds_most_and_says_how_many(large, monkeypatch):
    pytest.importorskip("usearch")
    monkeypatch.setattr(retrieval, "INDEX_FROM", 300)
    _, entries, keys, actions = large
    memory, gate = Memory(entries, keys, actions), GateConfig(search="approximate", min_entries=1)
    assert memory.recall(1) is None
    states = {layer: torch.tensor([1.0, *[0.5] * 11]) for layer in (2, 3)}
    exact, near = (memory.retrieve(1, states, each)[0] for each in (GateConfig(), gate))
    recall = memory.recall(1)
    assert recall is not None and 0.9 < recall <= 1 and memory.recall(2) is None
    assert len({each.entry_id for each in exact} & {each.entry_id for each in near}) >= 6
    sims = {each.entry_id: each.sim for each in exact}
    assert all(each.sim == pytest.approx(sims[each.entry_id], abs=1e-6) for each in near if each.entry_id in sims)
    again = Memory(entries, keys, actions)
    assert again.retrieve(1, states, gate)[0] == near and again.recall(1) == recall
    assert memory.retrieve(1, states, GateConfig())[0] == exact


def test_an_index_is_kept_and_built_again_for_other_keys_or_where_its_file_is_damaged(monkeypatch, tmp_path):
    usearch = pytest.importorskip("usearch.index")
    monkeypatch.setenv("STIR_CACHE", str(tmp_path))
    built, add = [], usearch.Index.add
    monkeypatch.setattr(usearch.Index, "add", lambda self, *args, **options: built.append(1) or add(self, *args, **options))
    keys = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)

    def found(rows: np.ndarray) -> tuple[list[int], float, int]:
        built.clear()
        index = NearestIndex(lambda: [rows[:300], rows[300:]], 4)
        return index.search(keys[7], 4).tolist(), index.recall, len(built)

    first = found(keys)
    assert found(keys) == (*first[:2], 0) and first[2] == 2 and len(first[0]) == 8
    assert found(-keys)[2] == 2
    for file in tmp_path.glob("indexes/*.usearch"):
        assert 0.8 < file.stat().st_size / len(keys) / (2 * keys.shape[1] + BYTES_BESIDE) < 1  # as `stir estimate` says
        file.write_bytes(file.read_bytes()[:-1])
    assert found(keys) == first and found(keys)[2] == 0


def test_a_missing_index_package_is_one_line(monkeypatch):
    monkeypatch.setattr("stir_core.intervene.nearest.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package usearch: pip install"):
        check_gate(GateConfig(search="approximate"), None)
    with pytest.raises(ConfigError, match="needs the package usearch"):
        NearestIndex(lambda: [np.eye(3, dtype=np.float32)], 2)
    check_gate(GateConfig(), None)
