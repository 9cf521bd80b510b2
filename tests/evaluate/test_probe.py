"""Read-outs of recorded states: planted directions are seen, others are not, and intervals cover what they promise."""

# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false, reportOperatorIssue=false
# (what is None where a test expects something raises there, and the test fails as it should)

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stir_core.config import with_changes
from stir_core.errors import ConfigError, StoreError
from stir_core.evaluate.probe import (
    DIFFERENCE,
    KEYS,
    LOGISTIC,
    MARGIN,
    NEIGHBOUR,
    Keys,
    LabelledStates,
    conclude,
    corrected,
    key_margins,
    key_support,
    mean_difference_scores,
    ordered_pairs,
    probe_run,
    read_layer,
    separation,
    with_behind,
)
from stir_core.findings import Separation
from stir_core.harvest.pairs import plan_pairs
from stir_core.store.runs import Run
from tests.builders import make_pair
from tests.seals import rewrite
from tests.workbench.fake_run import make_fake_run

WIDTH = 12


def sampled(problems=24, k=8, points=2, seed=0, shared=0.0, private=0.0, kinds=0.0) -> LabelledStates:
    """States of rollouts: the problem's place, the rollout's own, and a shift by outcome along a direction.

    ``shared``: the same direction in all problems; ``private``: each problem has its own; ``kinds``: the same up to its sign, which
    depends on the problem's kind, and the kind is in the state.
    """
    rng = np.random.default_rng(seed)
    axes = np.eye(WIDTH)
    columns = []
    for problem in range(problems):
        kind = 1 if problem % 2 else -1
        own = rng.standard_normal(WIDTH)
        shift = shared * axes[0] + private * own / np.linalg.norm(own) + kinds * kind * axes[1]
        base = rng.standard_normal(WIDTH) + (3 * kinds * kind * axes[2] if kinds else 5 * axes[3])
        right = rng.permutation(np.arange(k) < rng.integers(2, k - 1))
        for each in range(k):
            noise = rng.standard_normal(WIDTH) * 0.5  # of the rollout: its states at several control points are alike
            for m in range(1, points + 1):
                state = base + noise + 0.5 * rng.standard_normal(WIDTH) + (1 if right[each] else -1) * shift / 2
                columns.append((problem, m, right[each], state))
    parts = [np.array(column) for column in zip(*columns, strict=True)]
    return LabelledStates(*parts)


def mined(data: LabelledStates, wrong: int, right: int) -> Keys:
    """A corrective and a null key for each problem and control point."""
    rows = []
    for problem, m in np.unique(np.stack([data.problems, data.ms]), axis=1).T:
        at = (data.problems == problem) & (data.ms == m)
        for corrective, side, number in ((True, ~data.right, wrong), (False, data.right, right)):
            rows.append((data.states[at & side][:number].mean(axis=0), problem, m, corrective, min(number, int((at & side).sum()))))
    return Keys(*(np.array(column) for column in zip(*rows, strict=True)))


def read(data: LabelledStates) -> tuple[dict[str, Separation], str, str]:
    """Pooled read-outs by name, outcome and verdict."""
    keys = dict(zip(KEYS, (mined(data, 3, 2), mined(data, 2, 2), mined(data, 1, 1)), strict=True))
    pooled = corrected(read_layer(5, data, keys)[0])
    return {each.readout: each for each in pooled}, *conclude(pooled)


# ---- verdicts on planted states -------------------------------------------------------------------------------------------------------


def test_a_shared_direction_is_seen() -> None:
    found, outcome, verdict = read(sampled(shared=2.0))
    assert outcome == "shared direction" and "A shared direction is seen at layer 5 (difference of means AUC" in verdict
    assert all(found[name].low > 0.6 for name in (DIFFERENCE, NEIGHBOUR, LOGISTIC))


def test_directions_of_single_problems_are_not_seen() -> None:
    found, outcome, verdict = read(sampled(problems=60, private=2.0))
    assert outcome == "none seen" and "steering with this library is not expected to help" in verdict
    assert found[DIFFERENCE].low < 0.5 < found[DIFFERENCE].high
    assert all(0.4 < each.auc < 0.6 and each.p_holm > 0.05 for each in found.values())


def test_keys_know_what_no_single_direction_does() -> None:
    found, outcome, verdict = read(sampled(problems=60, kinds=2.0))
    assert outcome == "retrieval only" and "retrieval may work there" in verdict
    assert found[MARGIN].low > 0.6 and found[DIFFERENCE].low < 0.5 < found[DIFFERENCE].high


def test_few_problems_give_no_verdict() -> None:
    found, outcome, verdict = read(sampled(problems=7, shared=2.0))
    assert outcome == "cannot tell" and "7 problems" in verdict and "at least 8" in verdict
    assert found[DIFFERENCE].auc > 0.5 and found[DIFFERENCE].low is None and found[DIFFERENCE].p is None
    assert conclude(())[0] == "cannot tell"


def test_wide_intervals_leave_the_question_open() -> None:
    found, outcome, verdict = read(sampled(problems=9, seed=3))
    assert found[MARGIN].high > 0.6
    assert outcome == "cannot tell" and "stays open" in verdict


def made(readout: str, auc: float, p_holm: float, layer: int = 5, half: float = 0.05) -> Separation:
    return Separation(
        readout=readout,
        layer=layer,
        states=99,
        problems=30,
        pairs=99,
        auc=auc,
        low=auc - half,
        high=auc + half,
        p=p_holm / 10,
        p_holm=p_holm,
    )


@pytest.mark.parametrize(
    ("pooled", "outcome", "words"),
    [
        ([made(DIFFERENCE, 0.7, 0.001), made(MARGIN, 0.5, 1)], "shared direction", "not expected to use it"),
        ([made(DIFFERENCE, 0.7, 0.001), made(MARGIN, 0.58, 0.2)], "shared direction", "may or may not use it"),
        ([made(DIFFERENCE, 0.7, 0.001), made(MARGIN, 0.7, 0.001)], "shared direction", "may work there"),
        ([made(DIFFERENCE, 0.7, 0.001), *(made(MARGIN, 0.7, 0.001, layer) for layer in (5, 6))], "shared direction", "at layer 6, too"),
        ([made(DIFFERENCE, 0.7, 0.001), made(MARGIN, 0.5, 1), made(MARGIN, 0.7, 0.001, 6)], "shared direction", "not expected to use it"),
        ([made(DIFFERENCE, 0.5, 1), made(LOGISTIC, 0.7, 0.001), made(MARGIN, 0.5, 1)], "not in the keys", "decodable at layer 5"),
        ([made(DIFFERENCE, 0.5, 1), made(LOGISTIC, 0.7, 0.001), made(MARGIN, 0.58, 0.1)], "cannot tell", "stays open"),
        (
            [made(DIFFERENCE, 0.5, 1), made(MARGIN, 0.5, 1), made(f"{MARGIN}, one rollout", 0.7, 0.01)],
            "retrieval only",
            "not with the keys",
        ),
        ([made(DIFFERENCE, 0.5, 1), made(MARGIN, 0.7, 0.001)], "retrieval only", "one static vector is not expected to"),
        ([made(DIFFERENCE, 0.58, 0.2), made(MARGIN, 0.7, 0.001)], "retrieval only", "whether one static vector can stays open"),
        ([made(DIFFERENCE, 0.5, 1), made(MARGIN, 0.58, 0.06)], "cannot tell", "stays open"),
        ([made(DIFFERENCE, 0.5, 1), made(MARGIN, 0.5, 1), made(MARGIN, 0.58, 0.06, 6)], "cannot tell", "stays open"),
        ([made(DIFFERENCE, 0.62, 0.06), made(MARGIN, 0.5, 1)], "none seen", "is not expected to help"),
    ],
)
def test_a_verdict_claims_no_more_than_its_figures(pooled: list[Separation], outcome: str, words: str) -> None:
    found, verdict = conclude(tuple(pooled))
    assert found == outcome and words in verdict


# ---- intervals ------------------------------------------------------------------------------------------------------------------------


def test_intervals_cover_one_half_when_labels_mean_nothing() -> None:
    covered, wide = [], []
    for seed in range(200):
        data = sampled(problems=16, k=6, points=2, seed=seed)  # no shift: outcomes are exchangeable among a problem's rollouts
        seen = separation(DIFFERENCE, mean_difference_scores(data), data, layer=5)
        plain = separation(DIFFERENCE, mean_difference_scores(data), data, layer=5, fitted=False)
        covered.append(seen.low <= 0.5 <= seen.high)
        wide.append(plain.low <= 0.5 <= plain.high)
    assert 0.91 <= np.mean(covered) <= 0.98
    assert np.mean(wide) < 0.90, "problems that score each other are not independent: without the doubled variance intervals are too short"


def test_an_auc_that_never_varies_still_has_an_interval() -> None:
    data = sampled(problems=10)
    seen = separation("perfect", data.right.astype(float), data, layer=5, fitted=False)
    assert seen.auc == seen.high == 1.0 and 0.5 < seen.low < 1.0 and seen.p < 0.05
    assert separation("reversed", -data.right.astype(float), data, layer=5, fitted=False).p > 0.95


def test_pairs_are_those_of_one_problem_and_control_point() -> None:
    data, rng = sampled(problems=3, k=6), np.random.default_rng(0)
    scores = rng.integers(0, 4, len(data.right)).astype(float)  # with ties
    scores[0] = np.nan
    ordered, pairs = np.zeros(3), np.zeros(3)
    for problem in range(3):
        for m in (1, 2):
            at = (data.problems == problem) & (data.ms == m) & ~np.isnan(scores)
            n = int(data.right[at].sum() * (~data.right[at]).sum())
            ordered[problem] += n * roc_auc_score(data.right[at], scores[at])
            pairs[problem] += n
    seen = ordered_pairs(scores, data)
    np.testing.assert_allclose(seen.ordered, ordered)
    np.testing.assert_array_equal(seen.pairs, pairs)


def test_rounding_orders_no_pair() -> None:
    data, rng = sampled(problems=3, k=6), np.random.default_rng(0)
    scores = rng.integers(0, 4, len(data.right)).astype(float)
    rounded = scores + 1e-7 * rng.standard_normal(len(scores))
    np.testing.assert_array_equal(ordered_pairs(rounded, data).ordered, ordered_pairs(scores, data).ordered)


# ---- read-outs ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nearest", [1, 3, 100])
@pytest.mark.parametrize("centred", [False, True])
def test_key_margins_leave_out_the_problem(centred: bool, nearest: int) -> None:
    data = sampled(problems=5)
    keys = mined(data, 3, 2)
    margins = key_margins(keys.keys, keys.problems, keys.corrective, data.states, data.problems, centred=centred, nearest=nearest)
    for state, problem, margin in zip(data.states, data.problems, margins, strict=True):
        others = keys.problems != problem
        mean = keys.keys[others].mean(axis=0) if centred else 0.0
        cosines = (keys.keys - mean) @ (state - mean) / np.linalg.norm(keys.keys - mean, axis=1) / np.linalg.norm(state - mean)
        near, far = (np.sort(cosines[others & kind])[-nearest:].mean() for kind in (keys.corrective, ~keys.corrective))
        assert margin == pytest.approx(near - far)


def test_key_margins_are_nan_without_both_kinds_of_other_problems() -> None:
    keys, states = np.eye(3), np.eye(3)
    margins = key_margins(keys, np.array([0, 0, 1]), np.array([True, False, True]), states, np.array([0, 1, 2]))
    assert np.isnan(margins[0]) and not np.isnan(margins[1:]).any()
    assert np.isnan(key_margins(keys[:0], np.array([], int), np.array([], bool), states, np.array([0, 1, 2]))).all()


def test_the_difference_of_means_is_that_of_the_other_problems() -> None:
    data = sampled(problems=6, points=1, shared=1.0)
    states, scores = data.states.copy(), mean_difference_scores(data)
    labels = data.right.astype(float)
    for problem in range(6):
        at = data.problems == problem
        states[at] -= states[at].mean(axis=0)
        labels[at] -= labels[at].mean()
    for problem in range(6):
        at = data.problems == problem
        x, y, right = states[~at], labels[~at], data.right[~at]
        direction = x[right].mean(axis=0) - x[~right].mean(axis=0)
        np.testing.assert_allclose(scores[at] / np.linalg.norm(y @ x), states[at] @ direction / np.linalg.norm(direction), atol=1e-9)


def test_averages_are_closer_to_everything() -> None:
    data = sampled(problems=24)
    seen = key_support(5, data, mined(data, 3, 1))
    assert (seen.corrective, seen.null) == (3, 1) and seen.spearman > 0.2
    assert key_support(5, data, mined(data, 1, 1)).spearman is None


# ---- a run ----------------------------------------------------------------------------------------------------------------------------


def test_the_embedded_run_has_no_direction_to_steer_by() -> None:
    report = probe_run(Run.open("smollm2"))
    pooled = {each.readout: each for each in report.pooled}
    assert (report.states, report.problems, report.mined) == (359, 24, 56)
    assert pooled[MARGIN].auc < 0.5 and pooled[MARGIN].high < 0.6
    assert all(each.low < 0.5 for each in report.pooled)
    assert report.outcome == "none seen" and "not expected to help" in report.verdict
    assert report.text.low > 0.5, "what a rollout has written does tell how it ends"
    (support,) = report.support
    assert support.corrective > support.null and support.spearman > 0.5
    assert {(each.layer, each.m) for each in report.cells} == {(17, m) for m in range(1, 7)}


def test_finished_states_suffice(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path, upto="states")
    with pytest.raises(StoreError, match='no finished stage "actions"'):  # a run from before its pairs were kept
        probe_run(run)
    pairs = plan_pairs(run.problems(), run.rollouts(), run.config.mining)
    rewrite(run, "states", "pairs.jsonl", pairs)
    report = probe_run(run)
    assert report.problems == 8 and report.text is None
    assert all(each.low is not None for each in report.pooled), "8 problems are enough for an interval"
    (support,) = report.support
    assert (support.layer, support.keys) == (18, min(2 * len(pairs), 2 * run.config.mining.top_pairs))


@pytest.mark.parametrize("most", [76, 77, 78])
def test_a_verdict_on_the_best_pairs_alone_says_so(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open("two_habits")
    assert len(run.pairs() or ()) == 77
    monkeypatch.setattr(run, "config", with_changes(run.config, mining={"top_pairs": most}))
    report = probe_run(run)
    assert report.outcome == "shared direction"
    assert (f"only the {most} best pairs were mined" in report.verdict) == (most <= 77)


def test_equal_numbers_are_the_best_rollouts_of_both_sides() -> None:
    pair = make_pair(1, (4, 2), (3, 1, 0))
    assert [(other.positives, other.negatives) for other in (with_behind(pair, number) for number in KEYS.values())] == [
        ((4, 2), (3, 1, 0)),
        ((4, 2), (3, 1)),
        ((4,), (3,)),
    ]
    assert with_behind(make_pair(1, (), (3, 1, 0), gold=True), 0).negatives == (3,), "a gold solution is one text"


def test_a_layer_that_was_not_harvested_is_refused() -> None:
    with pytest.raises(ConfigError, match="layer 3 was not harvested in run smollm2: take one of 17"):
        probe_run(Run.open("smollm2"), 3)


def test_a_run_that_ships_as_its_results_shows_its_shipped_report() -> None:
    report = probe_run(Run.open("qwen-svamp"))
    assert report.run == "qwen-svamp" and report.outcome == "shared direction" and {each.layer for each in report.pooled} == {9, 14, 18}
    with pytest.raises(StoreError, match='has no stage "states"'):
        probe_run(Run.open("qwen-svamp"), 14)
