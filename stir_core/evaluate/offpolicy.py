"""Fit learned gates to logged decisions, and estimate what they are worth without running them. Arrays in, numbers out: no model, no files.

A row is one logged decision: a state, its candidates, what was injected with which probability, and what came of it. What came of
injecting nothing at the same state was measured too, so the *advantage* of the logged action is known, not modelled. Whatever is fitted is
fitted without the problems that it is judged on (five folds of whole problems).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax, stdtrit

from stir_core.evaluate.statistics import FEWEST_PROBLEMS, clustered_share, clusters, wilson
from stir_core.findings import NO_INTERVAL, Bin, CoveragePoint, Estimate

FOLDS = 5
"""Parts of whole problems that a gate is fitted without."""
MOST_WEIGHT = 10.0
"""Importance weights are clipped here."""
FEWEST_EFFECTIVE = 50.0
"""Below this effective sample size there is no off-policy estimate."""
TEMPERATURE = 0.2
"""Of advantage-weighted regression: weights are ``exp(advantage / TEMPERATURE)``, at most :data:`MOST_ADVANTAGE_WEIGHT`."""
MOST_ADVANTAGE_WEIGHT = 20.0
VARIANCE_PENALTY = 0.5
"""Weight of the standard error in the objective of POEM (Swaminathan and Joachims 2015, arXiv 1502.02362)."""
COST = 0.05
"""Of acting, in the objective of POEM: without it nothing is learned from steps at which an action changes nothing."""
DECAY = 0.01
"""L2 penalty of the softmax gates, on standardised features."""
INVERSE_PENALTY = 0.1
"""Inverse strength ``C`` of the probe's L2 penalty, on standardised features."""
RIDGES = (1.0, 10.0, 100.0, 1000.0)
"""L2 penalties that the regressions choose from, by leaving rows out."""
QUANTILES = (0.2, 0.4, 0.6, 0.8)
"""Of the scores above 0: the thresholds that are tried beside 0 itself."""
SURE_QUANTILES = np.linspace(0, 0.95, 20)
"""Of the probe's log-odds: the thresholds that are tried for being sure."""
NEVER = 1e6
"""Log-odds that no state reaches: a probe that is never sure."""
NEGLIGIBLE = 0.01
"""Of mean reward: what a threshold may cost to act less."""
RESAMPLES = 2000


class Logged(NamedTuple):
    """Logged decisions. Column 0 of ``options`` is null, column j the candidate j - 1."""

    problems: Int[np.ndarray, "n"]
    """Problem of each row, numbered from 0."""
    states: Float[np.ndarray, "n features"]
    candidates: Float[np.ndarray, "n most candidate_features"]
    """Features of each candidate; rows with fewer are filled with zeros."""
    options: Bool[np.ndarray, "n columns"]
    """Where there is a candidate; null always."""
    chosen: Int[np.ndarray, "n"]
    """Column of the published gate's choice."""
    taken: Int[np.ndarray, "n"]
    """Column that was logged."""
    propensity: Float[np.ndarray, "n"]
    """Probability with which it was drawn."""
    reward: Float[np.ndarray, "n"]
    """Of what was taken."""
    null_reward: Float[np.ndarray, "n"]
    """Of null in the same state."""
    null_right: Float[np.ndarray, "n"]
    """Share of right answers under null in the same state."""

    @property
    def advantage(self) -> Float[np.ndarray, "n"]:
        """Reward of what was taken minus that of null; 0 where null was taken."""
        return np.where(self.taken > 0, self.reward - self.null_reward, 0.0)

    @property
    def folds(self) -> Int[np.ndarray, "n"]:
        """Fold of each row: whole problems."""
        return np.unique(self.problems, return_inverse=True)[1] % FOLDS

    def only(self, rows: Bool[np.ndarray, "n"]) -> "Logged":
        """Some of the rows."""
        return Logged(*(column[rows] for column in self))

    def columns(self, rows: Int[np.ndarray, "k"], which: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k all_features"]:
        """State and candidate features of one candidate (column ``which`` > 0) in each of these rows."""
        return np.hstack([self.states[rows], self.candidates[rows, which - 1]])


class Linear(NamedTuple):
    """A linear score: bias, weights of the state's features, weights of a candidate's."""

    bias: float
    state: Float[np.ndarray, "features"]
    candidate: Float[np.ndarray, "candidate_features"]

    def of_states(self, log: Logged) -> Float[np.ndarray, "n"]:
        """Score of each state."""
        return self.bias + log.states @ self.state

    def of_candidates(self, log: Logged) -> Float[np.ndarray, "n most"]:
        """Score of each candidate; minus infinity where there is none."""
        scores = self.of_states(log)[:, None] + log.candidates @ self.candidate
        return np.where(log.options[:, 1:], scores, -np.inf)


Fit = Callable[[Logged], Linear]


def _unscaled(weights: Float[np.ndarray, "all"], bias: float, mean: np.ndarray, scale: np.ndarray, states: int) -> Linear:
    """A score of standardised features as one of raw features."""
    raw = weights / scale
    return Linear(bias - float(raw @ mean), raw[:states], raw[states:])


def _scaling(rows: Float[np.ndarray, "n all"]) -> tuple[np.ndarray, np.ndarray]:
    scale = rows.std(axis=0)
    return rows.mean(axis=0), np.where(scale > 1e-9, scale, 1.0)


def fit_probe(log: Logged) -> Linear:
    """Log-odds that an answer in this state ends right if nothing is injected (logistic regression, L2)."""
    from sklearn.linear_model import LogisticRegression

    right, n, width = log.null_right, len(log.states), log.states.shape[1]
    if right.sum() in (0, n):  # nothing to tell: the log-odds of the share, with half an answer added on each side
        return Linear(float(np.log((right.sum() + 0.5) / (n - right.sum() + 0.5))), np.zeros(width), np.zeros(0))
    mean, scale = _scaling(log.states)
    rows = np.tile((log.states - mean) / scale, (2, 1))
    labels, shares = np.repeat([1, 0], n), np.concatenate([right, 1 - right])
    fitted = LogisticRegression(C=INVERSE_PENALTY, max_iter=2000).fit(rows[shares > 0], labels[shares > 0], shares[shares > 0])
    return _unscaled(fitted.coef_[0], float(fitted.intercept_[0]), mean, scale, width)


def fit_direct(log: Logged) -> Linear:
    """The advantage of a candidate over null, regressed on what was taken (ridge)."""
    rows = np.flatnonzero(log.taken > 0)
    width, more = log.states.shape[1], log.candidates.shape[2]
    if len(rows) < FOLDS:
        return Linear(0.0, np.zeros(width), np.zeros(more))
    return _ridge(log.columns(rows, log.taken[rows]), log.advantage[rows], width)


def _ridge(features: Float[np.ndarray, "n all"], target: Float[np.ndarray, "n"], states: int) -> Linear:
    from sklearn.linear_model import RidgeCV

    mean, scale = _scaling(features)
    fitted = RidgeCV(alphas=RIDGES).fit((features - mean) / scale, target)
    return _unscaled(np.asarray(fitted.coef_), float(fitted.intercept_), mean, scale, states)


def fit_ips(log: Logged) -> Linear:
    """A softmax over null and the candidates that maximises the weighted advantage less its standard error (POEM)."""
    weight, gained = np.minimum(1 / log.propensity, MOST_WEIGHT), log.advantage - COST * (log.taken > 0)

    def objective(picked: Float[np.ndarray, "n"]) -> tuple[float, Float[np.ndarray, "n"]]:
        terms = picked * weight * gained  # picked: probability of what was taken
        spread = float(terms.std()) + 1e-9
        n = len(terms)
        slope = weight * gained * (1 - VARIANCE_PENALTY * (terms - terms.mean()) / (spread * np.sqrt(n))) / n
        return float(terms.mean() - VARIANCE_PENALTY * spread / np.sqrt(n)), slope * picked  # slope by log-probability

    return _softmax_fit(log, objective)


def fit_awr(log: Logged) -> Linear:
    """A softmax over null and the candidates, fitted to what was taken with weights ``exp(advantage / TEMPERATURE)`` (arXiv 1910.00177)."""
    weight = np.minimum(np.exp((log.advantage - log.advantage.mean()) / TEMPERATURE), MOST_ADVANTAGE_WEIGHT)
    # drawn uniformly, what was taken would be a fair sample: without it, the softmax would copy the gate that was logged
    weight = weight * np.minimum(1 / log.propensity, MOST_WEIGHT)
    weight = weight / weight.mean()

    def objective(picked: Float[np.ndarray, "n"]) -> tuple[float, Float[np.ndarray, "n"]]:
        return float((weight * np.log(np.maximum(picked, 1e-12))).mean()), weight / len(weight)

    return _softmax_fit(log, objective)


def _softmax_fit(log: Logged, objective: Callable[[np.ndarray], tuple[float, np.ndarray]]) -> Linear:
    """Maximise an objective of the probability of what was taken, with an L2 penalty; null's logit is 0.

    Args:
        objective: probabilities -> its value, and its derivative by the logarithm of each.
    """
    n, most, more = log.candidates.shape
    width = log.states.shape[1]
    features = np.concatenate([np.repeat(log.states[:, None], most, axis=1), log.candidates], axis=2)
    there = log.options[:, 1:]
    if not there.any():
        return Linear(0.0, np.zeros(width), np.zeros(more))
    mean, scale = _scaling(features[there])
    scaled = np.where(there[..., None], (features - mean) / scale, 0.0)
    taken = np.eye(most + 1)[log.taken]

    def loss(parameters: Float[np.ndarray, "all"]) -> tuple[float, Float[np.ndarray, "all"]]:
        bias, weights = parameters[0], parameters[1:]
        logits = np.hstack([np.zeros((n, 1)), np.where(there, bias + scaled @ weights, -np.inf)])
        picked = np.exp(log_softmax(logits, axis=1)[np.arange(n), log.taken])
        value, slope = objective(picked)
        by_logit = (slope[:, None] * (taken - softmax(logits, axis=1)))[:, 1:]
        gradient = np.concatenate([[by_logit.sum()], np.einsum("nk,nkf->f", by_logit, scaled)])
        return -value + DECAY * float(weights @ weights), -gradient + 2 * DECAY * np.concatenate([[0.0], weights])

    fitted = minimize(loss, np.zeros(1 + width + more), jac=True, method="L-BFGS-B").x
    return _unscaled(fitted[1:], float(fitted[0]), mean, scale, width)


FITS: dict[str, Fit] = {"probe": fit_probe, "direct": fit_direct, "ips": fit_ips, "awr": fit_awr}
"""The learned gates by name."""


class OutOfFold(NamedTuple):
    """What models fitted without a row's problem say of it."""

    null: Float[np.ndarray, "n"]
    """Reward of null."""
    advantage: Float[np.ndarray, "n most"]
    """Advantage of each candidate over null; minus infinity where there is none."""

    def worth(self, columns: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Advantage of a column of each row; 0 for null."""
        return np.where(columns > 0, np.take_along_axis(self.advantage, np.maximum(columns - 1, 0)[:, None], axis=1)[:, 0], 0.0)


def cross_fitted(log: Logged, fit: Fit, score: Callable[[Linear, Logged], np.ndarray]) -> np.ndarray:
    """Scores of every row by a model that was fitted without the row's fold."""
    folds, parts = log.folds, {}
    for fold in np.unique(folds):
        parts[fold] = score(fit(log.only(folds != fold)), log.only(folds == fold))
    scores = np.empty((len(folds), *next(iter(parts.values())).shape[1:]))
    for fold, part in parts.items():
        scores[folds == fold] = part
    return scores


def outcome_models(log: Logged) -> OutOfFold:
    """The regressions of rewards that a doubly robust estimate corrects (Dudik, Langford and Li 2011, arXiv 1103.4601)."""
    width = log.states.shape[1]
    null = cross_fitted(log, lambda part: _ridge(part.states, part.null_reward, width), Linear.of_states)
    return OutOfFold(null, cross_fitted(log, fit_direct, Linear.of_candidates))


def best_column(scores: Float[np.ndarray, "n most"], threshold: float | None) -> Int[np.ndarray, "n"]:
    """Column of the best candidate whose score is above the threshold, else null."""
    if threshold is None:
        return np.zeros(len(scores), int)
    best = scores.argmax(axis=1)
    return np.where(scores[np.arange(len(scores)), best] > threshold, best + 1, 0)


def unless_sure(log: Logged, log_odds: Float[np.ndarray, "n"], threshold: float | None) -> Int[np.ndarray, "n"]:
    """The published gate's column, but null where a probe's log-odds of a right answer reach the threshold."""
    return np.zeros(len(log_odds), int) if threshold is None else np.where(log_odds < threshold, log.chosen, 0)


def importance_weights(log: Logged, columns: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Clipped importance weights of a gate that chooses these columns."""
    return np.where(columns == log.taken, np.minimum(1 / log.propensity, MOST_WEIGHT), 0.0)


def gains(log: Logged, columns: Int[np.ndarray, "n"], models: OutOfFold) -> Float[np.ndarray, "n"]:
    """Doubly robust terms of the advantage over null, whose mean estimates it; exactly 0 where the gate chooses null."""
    residual = np.where(columns > 0, log.advantage - models.worth(log.taken), 0.0)
    return models.worth(columns) + importance_weights(log, columns) * residual


def _by_problem(log: Logged, values: Float[np.ndarray, "n"]) -> list[list[float]]:
    return [values[log.problems == problem].tolist() for problem in np.unique(log.problems)]


def lower_bound(log: Logged, columns: Int[np.ndarray, "n"], risk: float) -> float:
    """One-sided lower bound of a gate's advantage over null, with problems as clusters.

    It rests on what was taken alone (inverse propensity): a model's word is no evidence here. Minus infinity where the gate's own actions
    were taken on fewer than :data:`~stir_core.evaluate.statistics.FEWEST_PROBLEMS` problems.
    """
    if len(np.unique(log.problems[(columns > 0) & (columns == log.taken)])) < FEWEST_PROBLEMS:
        return -np.inf
    seen = clusters(_by_problem(log, importance_weights(log, columns) * log.advantage))
    return seen.value - float(stdtrit(seen.degrees, 1 - risk)) * seen.error


def margin_threshold(log: Logged, scores: Float[np.ndarray, "n most"], risk: float) -> float | None:
    """The score, at least 0, above which a gate acts; ``None``: nowhere, since no lower bound of its gain over null is above 0.

    It is the largest one whose bound lies within :data:`NEGLIGIBLE` of the best, so that a gate does not act where that brings nothing. The
    bounds are corrected for the number of thresholds that are tried (Bonferroni).

    Args:
        scores: out of fold.
        risk: one-sided level of the bounds together.
    """
    best = scores.max(axis=1, initial=-np.inf)
    tried = [0.0, *np.quantile(best[best > 0], QUANTILES).tolist()] if (best > 0).any() else []
    bounds = {threshold: lower_bound(log, best_column(scores, threshold), risk / len(tried)) for threshold in tried}
    least = max(bounds.values(), default=0.0) - NEGLIGIBLE
    return max((threshold for threshold, bound in bounds.items() if bound > 0 and bound >= least), default=None)


def sure_threshold(log: Logged, log_odds: Float[np.ndarray, "n"], risk: float) -> float | None:
    """The least log-odds at which a probe is sure: of the states that reach them at most ``risk`` end wrong (upper end of 95 %).

    Without such a threshold it is never sure, and the published gate decides everywhere. ``None``, so that it abstains everywhere, where
    even so no gain over null is seen.
    """
    threshold = NEVER
    for tried in np.unique(np.quantile(log_odds, SURE_QUANTILES)):
        sure = log.only(log_odds >= tried)
        wrong = clustered_share(_by_problem(sure, 1 - sure.null_right))
        if wrong.high is not None and wrong.high <= risk:
            threshold = float(tried)
            break
    return threshold if lower_bound(log, unless_sure(log, log_odds, threshold), risk) > 0 else None


class OffPolicy(NamedTuple):
    """Estimates of the mean reward under a gate that was not run, and their intervals (bootstrap over problems)."""

    effective: float
    """Effective sample size, ``(sum w)^2 / sum w^2``."""
    ips: Estimate | None
    """Inverse propensity; ``None``, likewise below: the effective sample size is below :data:`FEWEST_EFFECTIVE`."""
    snips: Estimate | None
    """Self-normalised (Swaminathan and Joachims 2015)."""
    dr: Estimate | None
    """Doubly robust."""


def estimates(log: Logged, columns: Int[np.ndarray, "n"], models: OutOfFold, *, seed: int) -> OffPolicy:
    """What a gate that chooses these columns is worth, in mean reward."""
    weight = importance_weights(log, columns)
    total = weight.sum()
    effective = float(total**2 / (weight**2).sum()) if total else 0.0
    if effective < FEWEST_EFFECTIVE:
        return OffPolicy(effective, None, None, None)
    ones, weighted = np.ones(len(weight)), weight * log.reward
    robust = models.null + models.worth(columns) + weight * (log.reward - models.null - models.worth(log.taken))
    ips, snips, dr = (resampled(log, top, bottom, seed) for top, bottom in ((weighted, ones), (weighted, weight), (robust, ones)))
    return OffPolicy(effective, ips, snips, dr)


def resampled(log: Logged, top: Float[np.ndarray, "n"], bottom: Float[np.ndarray, "n"], seed: int) -> Estimate:
    """A ratio of sums with its 95 % percentile interval over resampled problems.

    Where outcomes hardly vary, resampling does not show what was never seen, so each end is at least as far away as the upper end of
    Wilson's interval for none of so many problems.
    """
    problems = np.unique(log.problems, return_inverse=True)[1]
    tops, bottoms = np.bincount(problems, top), np.bincount(problems, bottom)
    value = float(tops.sum() / bottoms.sum())
    n = len(tops)
    if n < FEWEST_PROBLEMS or not top.any():
        return Estimate(value=value, missing=NO_INTERVAL if top.any() else "no interval: all equal")
    drawn = np.random.Generator(np.random.Philox(seed)).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    ratios = (drawn @ tops) / np.maximum(drawn @ bottoms, 1e-12)
    low, high = np.quantile(ratios, (0.025, 0.975))
    unseen = wilson(0, n).bounds[1]
    return Estimate(value=value, low=min(float(low), value - unseen), high=max(float(high), value + unseen))


def reliability(log: Logged, models: OutOfFold, bins: int = 5) -> tuple[tuple[Bin, ...], float | None, float | None]:
    """Predicted against measured advantage of what was taken, in bins of equal size; and the Brier score of "it is above 0".

    The probability of an advantage above 0 is a logistic curve of the predicted one, fitted without the row's fold.

    Returns:
        The bins, the Brier score, and that of the share alone; ``None`` where fewer than :data:`FOLDS` rows have one of the two outcomes.
    """
    from sklearn.linear_model import LogisticRegression

    rows = log.only(log.taken > 0)
    predicted, helped = models.worth(log.taken)[log.taken > 0], rows.advantage > 0
    filled: list[Bin] = []
    order = np.argsort(predicted, kind="stable")
    for part in np.array_split(order, min(bins, max(1, len(order) // 4))):
        if len(part):
            own = clusters(_by_problem(rows.only(np.isin(np.arange(len(predicted)), part)), rows.advantage[np.sort(part)]))
            half = own.quantile * own.error
            measured = Estimate(value=own.value, missing=NO_INTERVAL)
            if own.enough:
                measured = Estimate(value=own.value, low=own.value - half, high=own.value + half)
            values = predicted[part]
            at = {"low": float(values.min()), "high": float(values.max()), "points": len(part), "predicted": float(values.mean())}
            filled.append(Bin(**at, measured=measured))
    if min(helped.sum(), (~helped).sum()) < FOLDS:
        return tuple(filled), None, None
    told, base = np.empty(len(helped)), np.empty(len(helped))
    for fold in np.unique(rows.folds):
        others = rows.folds != fold
        base[~others] = helped[others].mean()
        both = len(np.unique(helped[others])) == 2
        curve = LogisticRegression().fit(predicted[others, None], helped[others]) if both else None
        told[~others] = curve.predict_proba(predicted[~others, None])[:, 1] if curve is not None else base[~others]
    return tuple(filled), float(((told - helped) ** 2).mean()), float(((base - helped) ** 2).mean())


def risk_coverage(log: Logged, log_odds: Float[np.ndarray, "n"], points: int = 10) -> tuple[CoveragePoint, ...]:
    """Share of states that a probe would leave alone, and the share of these that end wrong, the surest first (arXiv 1705.08500)."""
    order = np.argsort(-log_odds, kind="stable")
    ends = np.unique(np.linspace(0, len(order), points + 1).astype(int)[1:])
    return tuple(
        CoveragePoint(
            coverage=end / len(order),
            risk=clustered_share(_by_problem(part := log.only(np.isin(np.arange(len(order)), order[:end])), 1 - part.null_right)),
            log_odds=float(log_odds[order[end - 1]]),
        )
        for end in ends
        if end
    )
