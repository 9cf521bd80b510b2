"""Simulated studies with a known effect: intervals hold it about as often as they say, and never have zero width."""

import numpy as np
import pytest

from stir_core.calibration.simulation import DESIGNS, simulated_study
from stir_core.evaluate.effects import predictor
from stir_core.evaluate.statistics import clustered_difference, clustered_mean, clustered_share, holm, verdict_of
from stir_core.findings import CausalPoint

STUDIES = 400
"""The binomial error of a coverage of 0.95 is then 0.011: the lower bounds below are nearly three of them from it. The upper ones are
wider, since a score interval covers more than it says where few pairs differ."""


@pytest.mark.parametrize(("problems", "how"), DESIGNS)
def test_intervals_of_differences_cover(problems, how):
    rng = np.random.default_rng(problems)
    inside = 0
    for _ in range(STUDIES):
        found, p = clustered_difference(simulated_study(rng, problems, **how))
        low, high = found.bounds
        assert low < high and p is not None and (p < 0.05) == (low > 0 or high < 0)
        inside += low <= how.get("gain", 0.0) <= high
    assert 0.92 <= inside / STUDIES <= 0.985, inside / STUDIES


@pytest.mark.parametrize("sizes", [[40] + [4] * 9, [1] * 4 + [16] * 4, [40] + [4] * 24])
def test_intervals_cover_where_few_problems_hold_most_of_the_pairs(sizes):
    """With one degree of freedom less than problems, they would hold the effect in 0.87 to 0.91 of these studies."""
    rng = np.random.default_rng(len(sizes))
    inside = 0
    for _ in range(STUDIES):
        found, p = clustered_difference([simulated_study(rng, 1, spread=0.2, rolls=size, redrawn=0.5)[0] for size in sizes])
        inside += found.bounds[0] <= 0 <= found.bounds[1]
        assert p is not None and (p < 0.05) == (found.bounds[0] > 0 or found.bounds[1] < 0)
    assert 0.92 <= inside / STUDIES <= 0.99, inside / STUDIES


def test_rare_differences_have_intervals_too():
    """Most studies tie in all pairs; then the interval is wide, never a point, and coverage is at least nominal."""
    rng = np.random.default_rng(0)
    found = [clustered_difference(simulated_study(rng, 12, redrawn=0.01))[0] for _ in range(STUDIES)]
    assert np.mean([each.value == 0 for each in found]) > 0.5
    assert min(each.bounds[1] - each.bounds[0] for each in found) > 0.05
    assert np.mean([each.bounds[0] <= 0 <= each.bounds[1] for each in found]) >= 0.93


def test_intervals_of_means_and_shares_cover():
    rng = np.random.default_rng(0)
    means = shares = 0
    for _ in range(STUDIES):
        levels = rng.normal(size=20)
        found = clustered_mean([(level + 0.3 * rng.normal(size=rng.integers(1, 12))).tolist() for level in levels])
        means += found.bounds[0] <= 0 <= found.bounds[1]
        found = clustered_share([(rng.random(5) < rate).astype(float).tolist() for rate in rng.beta(1, 3, size=20)])
        shares += found.bounds[0] <= 0.25 <= found.bounds[1]
    assert 0.92 <= means / STUDIES <= 0.985, means / STUDIES
    assert 0.92 <= shares / STUDIES <= 0.985, shares / STUDIES


def test_intervals_of_a_useless_predictor_hold_zero():
    rng = np.random.default_rng(0)
    inside = studies = 250
    for _ in range(studies):
        points = []
        for i in range(16):
            level = rng.normal()  # candidates of one state have margins alike
            for j in range(4):
                margin, advantage = level + 0.5 * rng.normal(), float(rng.choice([-0.25, 0.0, 0.0, 0.25]))
                seen = {"margin": margin, "value": margin, "gain": None, "sim": 0.5, "advantage": advantage, "tokens": 0.0, "pairs": 4}
                points.append(CausalPoint(problem_id=f"p{i // 2}", m=i, entry_id=f"e{j}", chosen=False, **seen))
        low, high = predictor("margin", points).correlation.bounds  # pyright: ignore[reportOptionalMemberAccess]
        inside -= not low <= 0 <= high
    assert 0.91 <= inside / studies <= 0.985, inside / studies


def test_forty_actions_that_do_nothing_look_like_nothing():
    """Holm's correction: in at most about one study of twenty does any of forty actions seem to help or harm."""
    rng = np.random.default_rng(0)
    studies = [[clustered_difference(simulated_study(rng, 12)) for _ in range(40)] for _ in range(30)]
    wrong = 0
    for actions in studies:
        corrected = holm({str(i): p for i, (_, p) in enumerate(actions) if p is not None})
        wrong += any(verdict_of(found.value, corrected[str(i)]) != "no effect seen" for i, (found, _) in enumerate(actions))
    assert wrong <= 5  # of 30; at most 1.5 expected
