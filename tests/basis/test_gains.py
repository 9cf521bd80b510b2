"""The parts of every gain against the recorded gain, and against log-determinants taken from scratch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stir_core.basis.gains import gain_parts
from stir_core.basis.selection import greedy_map, unit_rows
from stir_core.errors import SelectionError

DIVERSITY, EPSILON = 0.7, 1e-3


def draw(seed, n=12, d=6):
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((n, d)) * rng.uniform(0.5, 9, (n, 1))
    keys[3] = 2 * keys[1]  # an exact duplicate in direction
    return keys, rng.uniform(-0.2, 1.2, n)


def logdet(units):
    return np.linalg.slogdet(units @ units.T + EPSILON * np.eye(len(units)))[1] if len(units) else 0.0


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_parts_sum_to_the_recorded_gain(seed, conditioned):
    keys, quality = draw(seed)
    picks = greedy_map(unit_rows(keys), quality, 9, diversity=DIVERSITY, epsilon=EPSILON, forced=(5, 3, 1), conditioned=conditioned)
    order = [pick.index for pick in picks]
    parts = gain_parts(
        keys[order], quality[order].tolist(), [p.forced for p in picks], diversity=DIVERSITY, epsilon=EPSILON, conditioned=conditioned
    )
    assert [part.total for part in parts] == pytest.approx([pick.gain for pick in picks], abs=1e-7)
    assert [part.quality for part in parts] == pytest.approx(np.log1p(np.maximum(quality[order], 0)).tolist())


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_diversity_part_is_the_change_of_the_log_determinant(seed):
    keys, quality = draw(seed)
    order = np.random.default_rng(seed).permutation(12)[:8]  # any order, not a greedy one
    units = unit_rows(keys)[order]
    parts = gain_parts(keys[order], quality[order].tolist(), [False] * 8, diversity=DIVERSITY, epsilon=EPSILON)
    expected = [DIVERSITY * (logdet(units[: k + 1]) - logdet(units[:k])) for k in range(8)]
    assert [part.diversity for part in parts] == pytest.approx(expected, abs=1e-7)
    assert sum(part.diversity for part in parts) == pytest.approx(DIVERSITY * logdet(units), abs=1e-7)


def test_as_published_the_forced_ones_neither_count_nor_are_counted():
    keys, quality = draw(0)
    parts = gain_parts(keys, quality.tolist(), [True] * 4 + [False] * 8, diversity=1.0, epsilon=EPSILON, conditioned=False)
    alone = gain_parts(keys[4:], quality[4:].tolist(), [False] * 8, diversity=1.0, epsilon=EPSILON)
    assert [part.diversity for part in parts[:4]] == pytest.approx([np.log(1 + EPSILON)] * 4)
    assert [part.diversity for part in parts[4:]] == pytest.approx([part.diversity for part in alone])


def test_no_picks_and_lengths_that_do_not_fit():
    assert gain_parts(np.zeros((0, 4)), [], [], diversity=1.0, epsilon=EPSILON) == []
    with pytest.raises(SelectionError, match="2 keys, 1 qualities and 2 marks"):
        gain_parts(np.ones((2, 4)), [1.0], [True, False], diversity=1.0, epsilon=EPSILON)
