"""Greedy MAP against brute force and against a plain recomputation; the published picks where they are at hand."""

import itertools
import json
import os
import tracemalloc
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stir_core.basis import selection
from stir_core.basis.selection import Picked, forced_picks, greedy_map, select, unit_rows
from stir_core.config import SELECTORS, BasisConfig
from stir_core.errors import ConfigError, SelectionError
from stir_core.store.tensors import read_tensors
from tests.builders import make_entry


def objective(units, quality, chosen, diversity, epsilon):
    kernel = units[chosen] @ units[chosen].T + epsilon * np.eye(len(chosen))
    return np.log1p(quality[chosen]).sum() + diversity * np.linalg.slogdet(kernel)[1]


def plain_greedy(units, quality, budget, diversity, epsilon, chosen=()):
    """The definition, recomputed from scratch for every candidate."""
    chosen = list(chosen)
    while len(chosen) < min(budget, len(units)):
        rest = [i for i in range(len(units)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: (round(objective(units, quality, [*chosen, i], diversity, epsilon), 9), -i)))
    return chosen


def draw(seed, n=9, d=5):
    rng = np.random.default_rng(seed)
    return unit_rows(rng.standard_normal((n, d))), rng.uniform(0, 1.2, n)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_incremental_equals_the_definition(seed):
    units, quality = draw(seed)
    picks = [pick.index for pick in greedy_map(units, quality, 6, diversity=0.5, epsilon=1e-3)]
    assert picks == plain_greedy(units, quality, 6, 0.5, 1e-3)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_greedy_comes_near_the_best_subset(seed):
    units, quality = draw(seed, n=8)
    picks = [pick.index for pick in greedy_map(units, quality, 3, diversity=0.5, epsilon=1e-2)]
    values = [objective(units, quality, list(subset), 0.5, 1e-2) for subset in itertools.combinations(range(8), 3)]
    ours = objective(units, quality, picks, 0.5, 1e-2)
    assert sorted(values)[len(values) // 2] <= ours <= max(values) + 1e-9
    assert greedy_map(units, quality, 1, diversity=0.5)[0].index == int(np.argmax(quality))


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_later_picks_are_conditioned_on_the_forced_ones(seed):
    units, quality = draw(seed)
    picks = greedy_map(units, quality, 6, diversity=0.5, epsilon=1e-3, forced=(4, 7))
    assert [pick.index for pick in picks] == plain_greedy(units, quality, 6, 0.5, 1e-3, chosen=(4, 7))
    assert [pick.forced for pick in picks] == [True, True, False, False, False, False]
    as_published = greedy_map(units, quality, 6, diversity=0.5, epsilon=1e-3, forced=(4, 7), conditioned=False)
    rest = [i for i in range(9) if i not in (4, 7)]
    free = plain_greedy(units[rest], quality[rest], 4, 0.5, 1e-3)
    assert [pick.index for pick in as_published[2:]] == [rest[i] for i in free]


def test_the_gains_sum_to_the_objective():
    units, quality = draw(1)
    picks = greedy_map(units, quality, 5, diversity=0.5, epsilon=1e-3)
    assert sum(pick.gain or 0 for pick in picks) == pytest.approx(objective(units, quality, [pick.index for pick in picks], 0.5, 1e-3))


def test_no_kernel_of_all_candidates_is_ever_made():
    """Numbers held while selecting grow with the candidates, as rows of the keys and of the factor do, and not with their square."""
    held, picked = {}, {}
    for n in (1000, 4000):
        units, quality = draw(2, n=n)
        tracemalloc.start()
        picked[n] = len(greedy_map(units, quality, 16))
        held[n] = tracemalloc.get_traced_memory()[1] / 8
        tracemalloc.stop()
        assert held[n] < n * (16 + 16) < n * n / 30
    assert picked == {1000: 16, 4000: 16} and held[4000] < 4.5 * held[1000]


def test_an_exact_duplicate_comes_last_and_ties_go_to_the_lowest_index():
    units = unit_rows(np.eye(4)[[0, 0, 1, 2]])
    assert [pick.index for pick in greedy_map(units, np.ones(4), 9)] == [0, 2, 3, 1]


def test_rounding_decides_no_pick():
    units, quality = draw(0)
    twice, qualities = np.concatenate([units, units]), np.concatenate([quality, quality])
    rng = np.random.default_rng(1)
    orders = {
        tuple(pick.index for pick in greedy_map(unit_rows(twice + 1e-9 * rng.standard_normal(twice.shape)), qualities, 8))
        for _ in range(20)
    }
    assert orders == {tuple(pick.index for pick in greedy_map(twice, qualities, 8))}


@pytest.mark.parametrize(
    ("keys", "quality", "budget", "message"),
    [
        (np.zeros((2, 3)), np.ones(2), 1, "key 0 is zero"),
        (np.ones(3), np.ones(3), 1, "give one row per key"),
        (np.ones((2, 3)), np.ones(3), 1, "quality has shape \\[3\\] for 2 keys"),
        (np.ones((2, 3)), np.array([1.0, np.nan]), 1, "quality nan is not"),
        (np.ones((2, 3)), np.ones(2), 0, "budget 0 selects nothing"),
    ],
)
def test_unusable_input_is_one_line(keys, quality, budget, message):
    with pytest.raises(SelectionError, match=message):
        greedy_map(unit_rows(keys), quality, budget)


def make_entries(ms, qualities, control_points=4):
    rows = enumerate(zip(ms, qualities, strict=True))
    return [make_entry(f"e{i}", m, quality=q, key_row=i, action_row=i, reachable=m < control_points) for i, (m, q) in rows]


ENTRIES = make_entries([1, 1, 1, 2, 2, 4, 4], [0.9, 1.0, 0.8, 0.5, 0.6, 2.0, 3.0])
KEYS = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)


def test_forced_picks_are_the_best_of_each_control_point():
    assert forced_picks(ENTRIES, BasisConfig(min_per_control_point=2)) == (1, 0, 4, 3, 6, 5)
    assert forced_picks(ENTRIES, BasisConfig(min_per_control_point=2, budget=3)) == (1, 0, 4)


def test_unreachable_entries_take_no_budget_unless_asked():
    config = BasisConfig(min_per_control_point=0, budget=7)
    assert {pick.index for pick in select(ENTRIES, KEYS, config)} == {0, 1, 2, 3, 4}
    assert len(select(ENTRIES, KEYS, config, compat=True)) == 7
    assert len(select(ENTRIES, KEYS, config.model_copy(update={"keep_unreachable": True}))) == 7


def test_the_plain_selectors():
    top = select(ENTRIES, KEYS, BasisConfig(selector="top", min_per_control_point=0, budget=3))
    assert [pick.index for pick in top] == [1, 0, 2]
    random = [
        [p.index for p in select(ENTRIES, KEYS, BasisConfig(selector="random", min_per_control_point=0, budget=3), seed=s)]
        for s in (1, 1, 2, 3)
    ]
    assert random[0] == random[1] and len({tuple(r) for r in random}) > 1
    forced = select(ENTRIES, KEYS, BasisConfig(selector="random", min_per_control_point=1, budget=3), seed=1)
    assert [pick.index for pick in forced if pick.forced] == [1, 4]


def test_no_entry_to_choose_from():
    with pytest.raises(SelectionError, match="nothing was mined at a reachable control point"):
        select(make_entries([4], [1.0]), KEYS[:1], BasisConfig())


@pytest.mark.skipif("STIR_GOLDEN_ROOT" not in os.environ, reason="STIR_GOLDEN_ROOT is not set (CI sets it)")
def test_the_published_picks_in_their_order():
    root = Path(os.environ["STIR_GOLDEN_ROOT"])
    cases = json.loads((root / "dpp.json").read_text())
    assert len(cases) >= 5
    for case in cases:
        tensors = read_tensors(root / case["file"], ("keys", "quality"))
        picks = greedy_map(unit_rows(tensors["keys"]), tensors["quality"], case["budget"], diversity=case["lam"], epsilon=case["eps"])
        assert [pick.index for pick in picks] == case["picks"], case["file"]


@patch.dict(SELECTORS)  # what is registered here is gone when the test has ended
def test_a_registered_selector_can_be_named_by_a_config():
    with pytest.raises(ConfigError, match="take one of dpp, top, random"):
        BasisConfig(selector="worst")

    def worst(entries, units, config, forced, seed, compat):
        order = sorted(range(len(entries)), key=lambda i: entries[i].quality)
        return [Picked(i, False, None) for i in order[: config.budget]]

    selection.register_selector("worst", worst)
    picks = select(ENTRIES, KEYS, BasisConfig(selector="worst", budget=2, min_per_control_point=0))
    assert [pick.index for pick in picks] == sorted(range(len(ENTRIES)), key=lambda i: ENTRIES[i].quality)[:2]
    assert BasisConfig.model_json_schema()["properties"]["selector"]["enum"][:3] == ["dpp", "top", "random"]
    with pytest.raises(ConfigError, match="top is one of the built-in"):
        selection.register_selector("top", worst)
    assert all(SELECTORS.values()) and selection.SELECTORS is SELECTORS


@patch.dict(SELECTORS)
@pytest.mark.parametrize("indices", [[0, 0], [0, 1, 2], [0, 99], [1]])
def test_picks_that_break_the_rules_of_a_selector_are_refused(indices):
    selection.register_selector("loose", lambda *_: [Picked(i, False, None) for i in indices])
    config = BasisConfig(selector="loose", budget=2, min_per_control_point=1)
    with pytest.raises(SelectionError, match=r'selector "loose" returned \d picks: it has to return at most 2 different candidates'):
        select(ENTRIES, KEYS, config)
