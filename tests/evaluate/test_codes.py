"""The codebook on planted clusters: what is fitted on train problems alone, what is stable, and what a code is read as."""

import numpy as np
import pytest

from stir_core.basis.codebook import (
    by_centroid,
    error_share,
    fit_kmeans,
    fit_quantiser,
    fit_whitening,
    fit_windows,
    fsq_levels,
    givers,
    member_means,
    merged,
    perplexity,
    read_as,
)

RNG = np.random.default_rng(0)
MODES = np.repeat(np.arange(4), 100)
"""Four planted modes."""
POINTS = np.tile(np.arange(1, 5), 100)
ROWS = np.eye(4, 12)[MODES] * 6 + RNG.standard_normal((400, 12)) + np.eye(12)[POINTS] * 20
TRAIN = np.arange(400) % 4 != RNG.integers(4, size=400)


@pytest.fixture(scope="module")
def white():
    whitening = fit_whitening(ROWS[TRAIN], POINTS[TRAIN])
    return whitening.apply(ROWS, POINTS)


def test_whitening_takes_the_control_point_out_and_is_fitted_on_what_it_is_given(white):
    whitening = fit_whitening(ROWS[TRAIN], POINTS[TRAIN])
    unseen = (ROWS[0] - ROWS[TRAIN].mean(axis=0)) @ whitening.axes / whitening.scales
    for m in range(1, 5):
        assert white[TRAIN & (m == POINTS)].mean(axis=0) == pytest.approx(np.zeros(12), abs=1e-9)
    assert whitening.apply(ROWS[:1], np.array([9]))[0] == pytest.approx(unseen)
    spread = white[TRAIN].var(axis=0)
    assert spread.max() < 1 / 0.9 and (np.diff(spread) <= 1e-9).all()  # shrunk: small components stay small


@pytest.mark.parametrize("kind", ["kmeans", "vq", "rvq"])
def test_codes_find_planted_modes_on_rows_that_were_not_fitted(white, kind):
    fit = (lambda: fit_kmeans(white[TRAIN], 4, 0)) if kind == "kmeans" else (lambda: fit_quantiser(kind, white[TRAIN], 4, 0))
    codes, described = fit()(white)
    assert read_as(codes[TRAIN], MODES[TRAIN], codes[~TRAIN], MODES[~TRAIN]) > 0.9
    mixed = np.random.default_rng(1).permutation(codes)
    assert abs(read_as(mixed[TRAIN], MODES[TRAIN], mixed[~TRAIN], MODES[~TRAIN])) < 0.1
    assert error_share(white[~TRAIN], described[~TRAIN]) < 0.9
    assert (fit()(white)[0] == codes).all()  # seeded


def test_a_scalar_quantiser_and_a_window_reader_describe_rows(white):
    described = fit_quantiser("fsq", white[TRAIN], 64, 0)(white)[1]
    assert error_share(white[~TRAIN], described[~TRAIN]) < 0.9
    windows = np.repeat(white[:, None], 3, axis=1)
    codes, described = fit_windows("vq", windows[TRAIN], white[TRAIN], 4, 0)(windows.reshape(400, -1))
    assert set(codes) <= set(range(4)) and error_share(white[~TRAIN], described[~TRAIN]) < 0.95


@pytest.mark.parametrize(("size", "levels"), [(2, (2,)), (8, (8,)), (16, (4, 4)), (64, (4, 4, 4)), (100, (5, 5, 4))])
def test_levels_multiply_to_the_size_at_most(size, levels):
    assert fsq_levels(size) == levels and np.prod(levels) <= size


def test_merging_stops_before_the_error_grows_and_joins_twins(white):
    means = member_means(white[TRAIN], MODES[TRAIN], 4)
    twice = np.concatenate([white[TRAIN]] * 2)  # every mode has two codes that mean the same
    codes = np.concatenate([MODES[TRAIN], MODES[TRAIN] + 4])
    home, error = merged(twice, codes, white[~TRAIN], 8)
    assert len(np.unique(home[np.unique(codes)])) == 4
    assert error == pytest.approx(error_share(white[~TRAIN], by_centroid(means)(white[~TRAIN])[1]), rel=0.05)


def test_a_label_that_is_split_over_codes_is_still_read():
    halves = np.arange(400) % 2
    assert read_as(MODES * 2 + halves, MODES, MODES * 2 + halves, MODES) == 1.0
    assert perplexity(MODES) == pytest.approx(4.0) and perplexity(np.zeros(9, int)) == pytest.approx(1.0)


def test_whole_problems_exchange_their_codes_at_equal_places():
    problems, answers, places = np.repeat(np.arange(20), 20), np.repeat(np.arange(100), 4), np.tile(np.arange(4), 100)
    found = givers(places, answers, problems, 0)
    assert (places[found] == places).all() and sorted(found) == list(range(400)) and (problems[found] != problems).all()
    by_problem, by_answer = problems[found].reshape(20, 20), answers[found].reshape(100, 4)
    assert (by_problem == by_problem[:, :1]).all() and (by_answer == by_answer[:, :1]).all()  # whole problems and answers
    short = (places < 2) | (problems % 2 == 0)  # at later places every second problem has no step
    found = givers(places[short], answers[short], problems[short], 1)
    assert (places[short][found] == places[short]).all() and (problems[short][found] != problems[short]).all()


def test_an_association_of_problems_is_told_only_where_there_are_enough_problems():
    """Codes that are the problem's own go with any label of problems at step level; only over problems is that chance seen."""
    from sklearn.metrics import adjusted_mutual_info_score as told

    rng = np.random.default_rng(0)
    seen = {"steps": 0, "problems": 0}
    for trial in range(12):
        problems, places = np.repeat(np.arange(12), 30), np.tile(np.arange(3), 120)
        answers = np.repeat(np.arange(120), 3)
        codes, labels = rng.integers(0, 4, 12)[problems], rng.integers(0, 2, 12)[problems]
        ours = told(labels, codes)
        nulls = {
            "steps": [told(labels, rng.permutation(codes)) for _ in range(15)],
            "problems": [told(labels, codes[givers(places, answers, problems, 15 * trial + i)]) for i in range(15)],
        }
        for name, null in nulls.items():
            seen[name] += ours > np.quantile(null, 0.95)
    assert seen["steps"] >= 9 and seen["problems"] <= 3, seen
