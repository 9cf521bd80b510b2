"""95 % intervals and tests for answers to problems. Pure numbers: no model, no files, no text.

The problem is the unit throughout: answers to one problem, states of one answer and continuations of one state are alike, so intervals and
tests rest on how much *problems* differ (clusters; variance by the delete-one jackknife, Student's t with one degree less than problems,
fewer where problems hold unequally many values).
Below :data:`FEWEST_PROBLEMS` problems there is no interval, and no interval ever has zero width.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache
from itertools import accumulate
from math import copysign, inf, sqrt
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtr, stdtrit  # not scipy.stats, which takes most of a second to import, and pages import this module

from stir_core.findings import NO_INTERVAL, EffectVerdict, Estimate

FEWEST_PROBLEMS = 8
"""Fewer clusters do not show how much problems differ: no interval, and no test over clusters."""
MOST_EFFECTIVE = 4.0
"""Limit of the effective sample size, in values: few problems may agree by chance, and a standard error of 0 would leave no width."""
LEVEL = 0.05
"""Two-sided level of the tests; something is seen where a p-value corrected for all that is read together lies below it."""
DISCORDANT = 0.5
"""Share of pairs that differ, for a study's power: that of independent answers, each right half of the time."""
ALIKE = 0.1
"""Correlation of the differences of a problem's pairs (intraclass), for a study's power."""
Z95 = 1.959963984540054
NameT = TypeVar("NameT", bound=Hashable)


def wilson(right: int | float, n: int | float, z: float = Z95) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927), valid at any number of independent trials.

    Args:
        right: successes; it need not be whole where ``n`` is an effective sample size.
        z: quantile of the interval's half width.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"{right} right of {n}: a proportion needs at least one trial and no more successes than trials")
    centre = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * sqrt(right * (n - right) / n + z * z / 4)
    return Estimate(value=right / n, low=max(0.0, centre - half), high=min(1.0, centre + half))


class Clusters(NamedTuple):
    """Values grouped by problem."""

    value: float
    """Mean over all values."""
    n: int
    problems: int
    error: float
    """Standard error of the mean."""
    effective: float
    """Effective sample size: as many independent values would give this standard error (Kish 1965); at most :data:`MOST_EFFECTIVE` times
    ``n``. Where all values are equal they do not tell how alike a problem's values are, and each problem counts once."""
    degrees: float
    """Degrees of freedom: :func:`degrees_of_freedom` of the problems' sizes; 0 below :data:`FEWEST_PROBLEMS` problems."""
    quantile: float
    """Of Student's t at 97.5 %; infinite below :data:`FEWEST_PROBLEMS` problems."""

    @property
    def enough(self) -> bool:
        """True where the problems suffice for an interval."""
        return self.problems >= FEWEST_PROBLEMS


def clusters(groups: Iterable[Sequence[float]]) -> Clusters:
    """Mean, standard error and effective sample size of values that are grouped by problem.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    parts = [np.asarray(group, float) for group in groups if len(group)]
    flat = np.concatenate(parts) if parts else np.empty(0)
    if not len(flat) or not np.isfinite(flat).all():
        raise ValueError(f"a mean needs finite values, got {len(flat)}")
    sums, sizes = np.array([part.sum() for part in parts]), np.array([len(part) for part in parts])
    n, problems = len(flat), len(parts)
    value = float(flat.sum() / n)
    if problems < FEWEST_PROBLEMS:
        return Clusters(value, n, problems, inf, float(problems), 0.0, inf)
    error = jackknife((flat.sum() - sums) / (n - sizes))
    plain = float(flat.var(ddof=1) / n)
    effective = min(n * plain / error**2 if error > 0 else inf, MOST_EFFECTIVE * n) if plain > 0 else float(problems)
    degrees = degrees_of_freedom(sizes)
    return Clusters(value, n, problems, error, effective, degrees, float(stdtrit(degrees, 1 - LEVEL / 2)))


def degrees_of_freedom(sizes: Float[np.ndarray, "problems"] | Int[np.ndarray, "problems"]) -> float:
    """Degrees of freedom of a standard error over problems that hold so many values each.

    One less than the problems where all hold equally many. Where few of them hold most of the values, the error rests on these few: one
    less than the effective number of problems (Carter, Schnepel and Steigerwald 2017, with all values of a problem taken to be alike).
    """
    return float(sizes.sum() ** 2 / (sizes.astype(float) ** 2).sum()) - 1


def jackknife(left_out: Float[np.ndarray, "problems"]) -> float:
    """Standard error of a statistic from its values without each problem in turn (Tukey 1958)."""
    n = len(left_out)
    return float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))


def jackknife_interval(value: float, left_out: Float[np.ndarray, "problems"], sizes: Int[np.ndarray, "problems"]) -> Estimate:
    """Any statistic with a t interval from its values without each problem in turn; none for few problems, nor where nothing varies.

    Args:
        sizes: values that each problem holds.
    """
    if len(left_out) < FEWEST_PROBLEMS:
        return Estimate(value=value, missing=NO_INTERVAL)
    if (error := jackknife(left_out)) == 0:
        return Estimate(value=value, missing="no interval: all equal")
    half = float(stdtrit(degrees_of_freedom(sizes), 1 - LEVEL / 2)) * error
    return Estimate(value=value, low=value - half, high=value + half)


def clustered_mean(groups: Iterable[Sequence[float]]) -> Estimate:
    """Mean over all values with a t interval over problems; none for few problems, nor where nothing varies.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    seen = clusters(groups)
    if not seen.enough or seen.error == 0:
        return Estimate(value=seen.value, missing="no interval: all equal" if seen.enough else NO_INTERVAL)
    half = seen.quantile * seen.error
    return Estimate(value=seen.value, low=seen.value - half, high=seen.value + half)


def clustered_share(groups: Iterable[Sequence[float]]) -> Estimate:
    """Share of ones among zeros and ones, with Wilson's interval at the effective sample size; none for few problems.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    seen = clusters(groups)
    if not seen.enough:
        return Estimate(value=seen.value, missing=NO_INTERVAL)
    return wilson(seen.value * seen.effective, seen.effective, seen.quantile).replaced(value=seen.value)


def clustered_difference(groups: Iterable[Sequence[float]]) -> tuple[Estimate, float | None]:
    """Mean of paired differences (1 won, -1 lost, 0 tied), and the p-value of the hypothesis that it is 0.

    Tango's score interval (Tango 1998) at the effective sample size, as Yang, Sun and Hardin (2012) extend it to clustered pairs, with
    quantiles of Student's t. It is valid where all pairs tie, and excludes 0 exactly where p < 0.05. With one pair a problem, p is
    McNemar's without continuity correction. Both are ``None`` for few problems.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    seen, score = _scored(groups)
    if not seen.enough:
        return Estimate(value=seen.value, missing=NO_INTERVAL), None
    low, high = (_bound(score, side * seen.quantile, seen.value, -side) for side in (1.0, -1.0))
    return Estimate(value=seen.value, low=low, high=high), float(2 * stdtr(seen.degrees, -abs(score(0.0))))


def least_difference(groups: Iterable[Sequence[float]]) -> float | None:
    """One-sided 95 % lower bound of a mean of paired differences, as :func:`clustered_difference` takes them; ``None``: few problems."""
    seen, score = _scored(groups)
    return _bound(score, float(stdtrit(seen.degrees, 1 - LEVEL)), seen.value, -1.0) if seen.enough else None


def _scored(groups: Iterable[Sequence[float]]) -> tuple[Clusters, Callable[[float], float]]:
    """The clusters of paired differences, and the score statistic of a hypothetical one."""
    groups = list(groups)
    seen = clusters(groups)
    scale = seen.effective / seen.n
    won, lost = (scale * sum(sign * value > 0 for group in groups for value in group) for sign in (1, -1))
    return seen, lambda difference: _tango(won, lost, seen.effective, difference)


def detectable_difference(pairs: int, problems: int) -> float | None:
    """Smallest true difference that :func:`clustered_difference` finds in 80 % of studies of this size; ``None`` for few problems.

    Known before anything is measured, so it takes the least favourable share of pairs that differ, :data:`DISCORDANT`, and pairs of a
    problem to be alike by :data:`ALIKE`.
    """
    if problems < FEWEST_PROBLEMS:
        return None
    effect = 1 + ALIKE * max(0.0, pairs / problems - 1)  # the design effect (Kish 1965)
    quantiles = stdtrit(problems - 1, 1 - LEVEL / 2) + stdtrit(problems - 1, 0.8)
    return float(quantiles * sqrt(DISCORDANT * effect / pairs))


def _tango(won: float, lost: float, n: float, difference: float) -> float:
    """Score statistic of a hypothetical difference (Tango 1998, equation 3): falls from positive to negative as the difference grows."""
    b = (2 * n - won + lost) * difference - won - lost
    c = -lost * difference * (1 - difference)
    q = (sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)  # the loser's share that is likeliest under this difference
    variance = n * (2 * q + difference * (1 - difference))
    gap = won - lost - n * difference
    if variance <= 0:
        return copysign(inf, gap) if abs(gap) > 1e-9 else 0.0
    return gap / sqrt(variance)


def _bound(score: Callable[[float], float], at: float, value: float, end: float) -> float:
    """The difference between ``value`` and ``end`` (-1 or 1) at which the score is ``at``."""
    from scipy.optimize import root_scalar

    if abs(score(end)) < abs(at):
        return end
    return float(root_scalar(lambda difference: score(difference) - at, bracket=(value, end), method="bisect", xtol=1e-10).root)


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided McNemar p-value (McNemar 1947): a binomial test over the problems that one of two methods got right."""
    from scipy.stats import binomtest

    n = won + lost
    return 1.0 if n == 0 else float(binomtest(won, n, 0.5).pvalue)


@cache
def looks(count: int, level: float = LEVEL) -> tuple[float, ...]:
    """Largest two-sided p that stops at each of ``count`` equally spaced looks at growing data (O'Brien and Fleming 1979).

    The chance that any look stops by chance is ``level``: the statistics of two looks correlate by the root of their sizes' ratio.
    """
    from scipy.optimize import brentq
    from scipy.stats import multivariate_normal, norm

    at = np.arange(1, count + 1)
    correlation = np.sqrt(np.minimum.outer(at, at) / np.maximum.outer(at, at))

    together = multivariate_normal(cov=correlation, seed=0)  # pyright: ignore[reportArgumentType]

    def excess(last: float) -> float:
        z = last * np.sqrt(count / at)
        return 1 - float(together.cdf(z, lower_limit=-z)) - level

    last = float(brentq(excess, 1.0, 6.0, xtol=1e-4))  # pyright: ignore[reportArgumentType]
    return tuple(float(2 * norm.sf(z)) for z in last * np.sqrt(count / at))


def holm(p_values: Mapping[NameT, float]) -> dict[NameT, float]:
    """Holm's step-down adjusted p-values (Holm 1979), by name."""
    order = sorted(p_values, key=lambda name: p_values[name])
    scaled = [min(1.0, (len(order) - rank) * p_values[name]) for rank, name in enumerate(order)]
    adjusted = dict(zip(order, accumulate(scaled, max), strict=True))
    return {name: adjusted[name] for name in p_values}


def verdict_of(value: float, p: float | None) -> EffectVerdict:
    """What a measured effect shows; the only place that decides it.

    Args:
        p: corrected for the number of effects that are read together; ``None``: too few problems for a test.
    """
    if p is None:
        return "cannot tell"
    if p >= LEVEL:
        return "no effect seen"
    return "helps" if value > 0 else "harms"
