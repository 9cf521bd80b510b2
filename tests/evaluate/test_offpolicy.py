"""Off-policy estimates against another library's, and learned gates on logs whose truth is known."""

# pyright: reportOptionalMemberAccess=false, reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false
# (what is None where a test expects something raises there, and the test fails as it should)

import numpy as np
import pytest

from stir_core.evaluate.offpolicy import (
    FEWEST_EFFECTIVE,
    FITS,
    MOST_WEIGHT,
    Linear,
    Logged,
    OutOfFold,
    best_column,
    cross_fitted,
    estimates,
    gains,
    importance_weights,
    lower_bound,
    margin_threshold,
    outcome_models,
    reliability,
    resampled,
    risk_coverage,
    sure_threshold,
    unless_sure,
)
from stir_core.evaluate.policy_text import gate_verdict, policy_verdict
from stir_core.findings import Estimate, PolicyFigures

OBP = 0.36435483870967744, 0.41468563561266636, 0.43913559274193553


def drawn_log(n: int = 2000, eps: float = 0.3) -> tuple[Logged, OutOfFold, np.ndarray]:
    """A log of up to three candidates, models of its outcomes, and the columns of a gate to estimate."""
    rng = np.random.default_rng(7)
    options = np.ones((n, 4), bool)
    options[:, 3] = rng.random(n) < 0.6
    chosen = np.where(rng.random(n) < 0.5, 1, 0)
    p = eps / options.sum(1)[:, None] * options
    p[np.arange(n), chosen] += 1 - eps
    taken = np.array([rng.choice(4, p=row / row.sum()) for row in p])
    reward = (rng.random(n) < 0.3 + 0.1 * taken).astype(float)
    null, advantage = np.round(rng.random(n), 3), np.round(rng.normal(0, 0.3, (n, 3)), 3)
    columns = np.where(rng.random(n) < 0.4, 2, np.where(rng.random(n) < 0.5, 0, 1))
    features = np.zeros((n, 3, 5)), options, chosen, taken
    log = Logged(np.arange(n) // 2, np.zeros((n, 2)), *features, p[np.arange(n), taken], reward, np.zeros(n), np.zeros(n))
    return log, OutOfFold(null, advantage), columns


def test_the_estimates_are_those_of_the_open_bandit_pipeline():
    """obp 0.4.1 (arXiv 2008.07146) on the same log: IPW, SNIPW and DR with ``pscore = max(propensity, 0.1)``, which clips weights at 10, an
    ``action_dist`` of ones at the columns, and these models as ``estimated_rewards_by_reg_model``. It is not a dependency, since it needs
    other versions of ours."""
    log, models, columns = drawn_log()
    assert (1 / log.propensity[columns == log.taken]).max() > MOST_WEIGHT  # so that clipping matters
    found = estimates(log, columns, models, seed=0)
    assert (found.ips.value, found.snips.value, found.dr.value) == pytest.approx(OBP, rel=1e-12)
    weight = importance_weights(log, columns)
    assert found.effective == pytest.approx(weight.sum() ** 2 / (weight**2).sum()) and found.effective > FEWEST_EFFECTIVE
    for each in (found.ips, found.snips, found.dr):
        assert each.low < each.value < each.high


def test_a_small_effective_sample_is_refused():
    log, models, columns = drawn_log()
    few = log.only(np.arange(len(columns)) < 60)
    found = estimates(few, columns[:60], OutOfFold(models.null[:60], models.advantage[:60]), seed=0)
    assert found.effective < FEWEST_EFFECTIVE and found.ips is found.snips is found.dr is None


def test_an_interval_is_never_narrower_than_what_was_not_seen():
    log, _, _ = drawn_log()
    ones = np.ones(len(log.reward))
    flat = resampled(log, ones, ones, 0)
    assert flat.value == 1 and 0.99 < flat.low < 0.998 and 1.002 < flat.high < 1.01
    assert resampled(log, 0 * ones, ones, 0).missing == "no interval: all equal"
    assert resampled(log.only(log.problems < 5), ones[:10], ones[:10], 0).low is None


def known_log(n: int = 600, *, helps: bool = True, harms: bool = True, seed: int = 0) -> tuple[Logged, np.ndarray]:
    """Answers are wrong where the first feature is below 0; both candidates mend them, and spoil the others. And which are wrong."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, 4))
    wrong = states[:, 0] < 0
    taken, chosen = rng.integers(0, 3, n), np.ones(n, int)
    null = (~wrong).astype(float)
    mended, spoiled = np.where(helps, 1.0, 0.0), np.where(harms, 0.0, 1.0)
    reward = np.where(taken > 0, np.where(wrong, mended, spoiled), null)
    candidates = np.zeros((n, 2, 5))
    candidates[:, 0, 0] = 1.0
    columns = np.ones((n, 3), bool), chosen, taken, np.full(n, 1 / 3), reward, null, null
    return Logged(np.arange(n) // 3, states, candidates, *columns), wrong


@pytest.mark.parametrize("name", ["direct", "ips", "awr"])
def test_a_gate_learns_where_to_act_and_how(name):
    log, wrong = known_log()
    scores = cross_fitted(log, FITS[name], Linear.of_candidates)
    threshold = margin_threshold(log, scores, 0.05)
    columns = best_column(scores, threshold)
    assert threshold is not None and threshold >= 0
    assert (columns[wrong] > 0).mean() > 0.75 and (columns[~wrong] == 0).mean() > 0.8
    assert lower_bound(log, columns, 0.05) > 0.2


@pytest.mark.parametrize("name", ["direct", "ips", "awr"])
def test_a_gate_abstains_where_nothing_helps_and_where_nothing_is_known(name):
    harmful, _ = known_log(helps=False)
    few = known_log()[0].only(np.arange(600) < 12)
    for log in (harmful, few):
        assert margin_threshold(log, cross_fitted(log, FITS[name], Linear.of_candidates), 0.05) is None


def test_shuffled_outcomes_hardly_ever_make_a_gate_act():
    acted = 0
    for seed in range(40):
        log, _ = known_log(150, seed=seed)
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], len(log.reward))
        log = log._replace(reward=log.null_reward + signs * log.advantage)
        acted += margin_threshold(log, cross_fitted(log, FITS["direct"], Linear.of_candidates), 0.05) is not None
    assert acted <= 6  # at a level of 0.05, more than 6 of 40 have a probability of 0.3 %


def test_the_probe_is_sure_of_right_answers_and_leaves_the_rest_to_the_gate():
    log, wrong = known_log()
    log_odds = cross_fitted(log, FITS["probe"], Linear.of_states)
    threshold = sure_threshold(log, log_odds, 0.05)
    columns = unless_sure(log, log_odds, threshold)
    assert (log_odds[~wrong] > 0).mean() > 0.95
    assert (columns[wrong] == 1).mean() > 0.9 and (columns[~wrong] == 0).mean() > 0.8
    harmful, _ = known_log(helps=False)
    assert sure_threshold(harmful, log_odds, 0.05) is None  # the gate's choice helps nowhere
    points = risk_coverage(log, log_odds)
    assert [point.coverage for point in points][-1] == 1 and points[-1].risk.value == pytest.approx(wrong.mean())
    assert points[0].risk.value <= points[-1].risk.value
    everything_right = log._replace(null_right=np.ones(len(wrong)))
    fitted = FITS["probe"](everything_right)
    assert fitted.bias > 5 and not fitted.state.any()


def test_gains_are_exactly_zero_for_null_and_true_on_average():
    log, wrong = known_log(3000)
    models = outcome_models(log)
    assert not gains(log, np.zeros(len(wrong), int), models).any()
    always = gains(log, np.ones(len(wrong), int), models)
    assert always.mean() == pytest.approx(wrong.mean() - (~wrong).mean(), abs=0.05)


def test_models_never_see_the_problem_they_judge():
    """The advantage of a problem's rows is noise that only its own rows share: out of fold nothing of it is predicted."""
    rng = np.random.default_rng(3)
    problems = np.arange(300) // 3
    log, _ = known_log(300)
    log = log._replace(problems=problems, states=rng.normal(size=(100, 4))[problems], taken=np.ones(300, int))
    noise = rng.normal(size=100)[problems]
    log = log._replace(reward=log.null_reward + noise)
    predicted = outcome_models(log).advantage[:, 0]
    assert np.corrcoef(predicted, noise)[0, 1] < 0.2


def test_reliability_follows_what_was_measured():
    log, _ = known_log()
    bins, brier, share = reliability(log, outcome_models(log))
    assert sum(each.points for each in bins) == (log.taken > 0).sum()
    assert bins[0].measured.value < bins[-1].measured.value and brier < share
    flat = log._replace(reward=log.null_reward)
    assert reliability(flat, outcome_models(flat))[1:] == (None, None)


def test_a_verdict_is_not_stronger_than_its_evidence():
    gains_, none = Estimate(value=0.2, low=0.1, high=0.3), Estimate(value=0.0, low=-0.1, high=0.1)
    assert gate_verdict("value", 0.5, gains_, none, FEWEST_EFFECTIVE) == "gains over null"
    assert gate_verdict("value", 0.5, gains_, none, FEWEST_EFFECTIVE - 1).startswith("cannot tell")
    assert gate_verdict("direct", 0.0, none, none, 3.0).startswith("abstains")

    def study(effective: float) -> str:
        facts = {"threshold": None, "effective": effective, "ips": None, "snips": None, "dr": None, "over_null": none, "over_value": none}
        gates = [
            PolicyFigures(name=name, acts=acts, verdict=gate_verdict(name, acts, none, none, effective), **facts)
            for name, acts in (("value", 0.5), ("direct", 0.0))
        ]
        return policy_verdict(gates)

    assert study(FEWEST_EFFECTIVE).startswith("No gain") and study(FEWEST_EFFECTIVE - 1).startswith("Cannot tell")
