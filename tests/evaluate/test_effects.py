"""Advantages, intervals, calibration and ranking against independent computations and by simulation."""

# pyright: reportOptionalMemberAccess=false
# (what is None where a test expects something raises there, and the test fails as it should)

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sk_roc_curve

from stir_core.evaluate.effects import (
    StateId,
    advantages,
    area_under_roc,
    by_arm,
    calibration,
    effect,
    gaps,
    length,
    measured_point,
    predictor,
    right,
    roc_curve,
)
from stir_core.evaluate.statistics import holm
from stir_core.findings import NO_INTERVAL, CausalPoint, Roll


def roll(problem, m, arm, rep, correct, tokens=10) -> Roll:
    return Roll(problem_id=problem, m=m, arm=arm, alpha=1.0, rep=rep, correct=correct, finished=True, tokens=tokens, decoded=5)


def planted(p_with: float, p_without: float, states=12, reps=16, seed=0) -> list[Roll]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(states):
        for rep in range(reps):
            u = rng.random()  # common random numbers
            found.append(roll(f"p{i}", 1, "null", rep, bool(u < p_without), 20))
            found.append(roll(f"p{i}", 1, "a", rep, bool(u < p_with), 15))
    return found


STATES: list[StateId] = [(f"p{i}", 1, None) for i in range(12)]


def test_only_repetitions_that_both_arms_have_are_paired():
    rolls = by_arm(
        [roll("p", 1, "null", 0, False), roll("p", 1, "null", 1, True), roll("p", 1, "a", 1, False, 7), roll("p", 1, "a", 2, True)]
    )
    assert gaps(rolls, ("p", 1, None), "a", "null", right) == [-1.0]
    assert gaps(rolls, ("p", 1, None), "a", "null", length) == [-3.0]
    assert gaps(rolls, ("q", 1, None), "a", "null", right) == []


def test_a_planted_advantage_is_found_and_none_is_not():
    rolls = by_arm(planted(0.6, 0.3))
    (found,) = advantages(rolls, ["a", "never tried"], STATES)
    assert found.verdict == "helps" and found.bounds[0] > 0
    assert found.value == pytest.approx(0.3, abs=0.1)
    assert (found.problems, found.states, found.pairs, found.lost) == (12, 12, 192, 0)
    assert found.won == pytest.approx(192 * found.value)
    assert (found.tokens.value, found.tokens.low, found.tokens.missing) == (-5.0, None, "no interval: all equal")
    assert advantages(by_arm(planted(0.3, 0.6)), ["a"], STATES)[0].verdict == "harms"
    assert advantages(by_arm(planted(0.4, 0.4)), ["a"], STATES)[0].verdict == "no effect seen"


def test_below_eight_problems_nothing_is_concluded():
    (few,) = advantages(by_arm(planted(1.0, 0.0, states=7)), ["a"], STATES)
    assert (few.value, few.low, few.p, few.p_holm, few.verdict) == (1.0, None, None, None, "cannot tell")
    (enough,) = advantages(by_arm(planted(1.0, 0.0, states=8)), ["a"], STATES)
    assert enough.verdict == "helps" and enough.bounds[0] < 1.0


def test_states_of_one_problem_are_one_cluster():
    rolls = [
        each.replaced(problem_id=f"p{int(each.problem_id[1:]) // 2}", m=1 + int(each.problem_id[1:]) % 2) for each in planted(0.6, 0.3, 14)
    ]
    (found,) = advantages(by_arm(rolls), ["a"], [(f"p{i}", m, None) for i in range(7) for m in (1, 2)])
    assert (found.problems, found.states, found.verdict) == (7, 14, "cannot tell")


def test_verdicts_are_corrected_for_the_number_of_actions():
    rolls = planted(0.45, 0.3)
    (alone,) = advantages(by_arm(rolls), ["a"], STATES)
    others = [each.replaced(arm=f"b{i}") for i in range(40) for each in planted(0.4, 0.4, seed=i) if each.arm == "a"]
    found = {action.entry_id: action for action in advantages(by_arm([*rolls, *others]), ["a", *(f"b{i}" for i in range(40))], STATES)}
    assert alone.p == alone.p_holm == found["a"].p
    assert list(holm({name: action.p or 0.0 for name, action in found.items()}).values()) == [action.p_holm for action in found.values()]


def test_arms_may_differ_by_state():
    rolls = by_arm(planted(0.6, 0.3))
    some = effect(rolls, STATES, lambda state: "a" if state[0] < "p2" else None, "chosen", "null")
    assert some.states == some.problems == sum(name < "p2" for name, *_ in STATES) < 12


def point(i, margin, advantage, state=None, gain=None) -> CausalPoint:
    return CausalPoint(
        problem_id=state or f"p{i}",
        m=1,
        entry_id=f"e{i}",
        chosen=False,
        margin=margin,
        value=margin,
        gain=gain,
        sim=0.5,
        advantage=advantage,
        tokens=0,
        pairs=4,
    )


def test_ranking_against_scipy_and_scikit_learn():
    rng = np.random.default_rng(1)
    margins = np.round(rng.normal(size=60), 1)  # with ties
    advantages = np.round(0.5 * margins + rng.normal(size=60), 1)
    found = predictor("margin", [point(i, m, a) for i, (m, a) in enumerate(zip(margins, advantages, strict=True))])
    assert found.spearman == pytest.approx(next(iter(spearmanr(margins, advantages))))
    assert None not in (found.low, found.spearman, found.high)
    assert sorted([found.low, found.spearman, found.high]) == [found.low, found.spearman, found.high]  # pyright: ignore[reportArgumentType]
    nonzero = advantages != 0
    assert found.auc == pytest.approx(roc_auc_score(advantages[nonzero] > 0, margins[nonzero]))
    false, true = roc_curve(margins[nonzero].tolist(), (advantages[nonzero] > 0).tolist())
    sk_false, sk_true, _ = sk_roc_curve(advantages[nonzero] > 0, margins[nonzero], drop_intermediate=False)
    assert false == pytest.approx(sk_false.tolist()) and true == pytest.approx(sk_true.tolist())


def test_what_cannot_be_ranked_is_none():
    assert area_under_roc(np.array([1.0]), np.array([])) is None
    same = predictor("margin", [point(i, 1.0, a) for i, a in enumerate((0.0, 0.5, -0.5, 0.1))])
    assert same.spearman is None and same.low is None
    unseen = predictor("preview gain", [point(0, 1.0, 0.5)])
    assert (unseen.points, unseen.spearman, unseen.auc) == (0, None, None)


def test_calibration_bins_hold_every_point_once():
    points = [point(i, i / 10, 0.1 * (i % 3), state=f"s{i // 4}") for i in range(23)]
    bins = calibration(points)
    assert sum(each.points for each in bins) == 23 and len(bins) == 5
    assert [each.low for each in bins] == sorted(each.low for each in bins)
    for each in bins:
        inside = [p for p in points if each.low <= p.margin <= each.high]
        assert each.predicted == pytest.approx(np.mean([p.margin for p in inside]))
        assert each.measured.value == pytest.approx(np.mean([p.advantage for p in inside]))
        assert (each.measured.low, each.measured.missing) == (None, NO_INTERVAL)  # of at most two problems
    (one,) = calibration([point(i, i / 10, 0.1 * (i % 3)) for i in range(23)], bins=1)
    assert one.measured.bounds[0] < one.measured.value < one.measured.bounds[1]


def test_points_are_the_tried_candidates():
    rolls = by_arm(planted(0.6, 0.3, states=2, reps=4))
    seen = {"margin": 0.2, "value": 0.9, "gain": None, "sim": 0.8}
    only = measured_point(rolls, ("p0", 1, None), "a", chosen=True, **seen)
    assert measured_point(rolls, ("p1", 1, None), "b", chosen=False, **seen) is None
    assert (only.problem_id, only.entry_id, only.pairs, only.chosen) == ("p0", "a", 4, True)
