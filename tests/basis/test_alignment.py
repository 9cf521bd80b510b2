"""Matching two libraries: copies, shuffles and rotations, and what chance would give."""

import numpy as np
import pytest

from stir_core.basis.alignment import best_by_chance, best_cosines, matches, moved_on, spans

RNG = np.random.default_rng(4)
ROWS = RNG.normal(size=(60, 128)) * RNG.uniform(0.5, 4.0, size=(60, 1))
PLACES = [(1 + i % 3, (3, 5)[i % 2]) for i in range(60)]


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(9).normal(size=(d, d)))[0]


@pytest.mark.parametrize("assign", [False, True])
def test_a_copy_matches_entry_by_entry(assign):
    found = matches(ROWS, PLACES, ROWS, PLACES, at_least=0.99, assign=assign)
    assert sorted((m.one, m.other) for m in found) == [(i, i) for i in range(60)]
    assert all(m.cosine == pytest.approx(1) for m in found)
    np.testing.assert_allclose(best_cosines(ROWS, PLACES, ROWS, PLACES), 1)


@pytest.mark.parametrize("assign", [False, True])
def test_shuffled_entries_are_found_again(assign):
    order = np.random.default_rng(1).permutation(60)
    found = matches(ROWS, PLACES, ROWS[order] * 3.0, [PLACES[i] for i in order], at_least=0.99, assign=assign)
    assert len(found) == 60 and all(order[m.other] == m.one for m in found)


def test_a_rotated_copy_is_no_nearer_than_chance():
    turned = ROWS @ rotation(128).T
    assert matches(ROWS, PLACES, turned, PLACES, at_least=0.5) == []
    best = best_cosines(ROWS, PLACES, turned, PLACES)
    assert best.mean() == pytest.approx(best_by_chance(10, 128), abs=0.03)
    found = spans(ROWS, turned)
    assert found is not None and found.overlap == pytest.approx(found.by_chance, abs=0.05)


def test_the_same_vector_at_another_place_is_no_match():
    assert matches(ROWS[:1], [(1, 3)], ROWS[:1], [(2, 3)], at_least=-1.0) == []
    assert matches(ROWS[:1], [(1, 3)], ROWS[:1], [(1, 5)], at_least=-1.0) == []
    assert np.isnan(best_cosines(ROWS[:1], [(1, 3)], ROWS[:1], [(2, 3)])).all()


def test_the_baseline_of_other_control_points_stays_in_the_layer():
    assert moved_on([(1, 3), (2, 3), (4, 3), (1, 5)]) == [(2, 3), (4, 3), (1, 3), (-1, 5)]
    shifted = best_cosines(ROWS, PLACES, ROWS, moved_on(PLACES))
    assert shifted.mean() == pytest.approx(best_by_chance(10, 128), abs=0.03)


def test_a_nearest_neighbour_that_prefers_another_is_no_match():
    one, other = np.array([[1.0, 0.0], [0.9, 0.2]]), np.array([[1.0, 0.05]])
    places = [(1, 0)]
    assert [(m.one, m.other) for m in matches(one, places * 2, other, places, at_least=0.5)] == [(0, 0)]


def test_assignment_gives_the_largest_sum():
    """Nearest neighbours leave one over where assignment pairs both."""
    angles = lambda *degrees: np.array([[np.cos(np.radians(a)), np.sin(np.radians(a))] for a in degrees])  # noqa: E731
    one, other, places = angles(0, 10), angles(8, 40), [(1, 0)] * 2
    assert [(m.one, m.other) for m in matches(one, places, other, places, at_least=0.5)] == [(1, 0)]
    assert {(m.one, m.other) for m in matches(one, places, other, places, at_least=0.5, assign=True)} == {(0, 0), (1, 1)}


@pytest.mark.parametrize(("n", "d"), [(1, 8), (5, 8), (40, 32), (200, 576)])
def test_chance_is_what_random_directions_give(n, d):
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(400, n, d))
    largest = (draws[:, :, 0] / np.linalg.norm(draws, axis=2)).max(axis=1)
    assert best_by_chance(n, d) == pytest.approx(largest.mean(), abs=4 * largest.std() / 20)


def test_spans_of_equal_and_orthogonal_sets():
    same = spans(ROWS[:10], ROWS[[3, 1, 0, 2, 4, 5, 6, 7, 8, 9]] @ np.eye(128), share=1.0)
    assert same is not None and same.overlap == pytest.approx(1) and same.dimensions == (10, 10)
    apart = spans(np.eye(8)[:3], np.eye(8)[3:7], share=1.0)
    assert apart is not None and apart.overlap == pytest.approx(0) and apart.by_chance == pytest.approx(4 / 8)
    half = spans(np.eye(8)[:2], np.eye(8)[1:3], share=1.0)
    assert half is not None and half.cosines == pytest.approx((1, 0)) and half.overlap == pytest.approx(0.5)
    assert spans(np.empty((0, 8)), np.eye(8)) is None
