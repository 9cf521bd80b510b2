"""Intervals and tests for paired answers. Pure numbers: no model, no files, no text.

Every interval names its method and level, and every p-value its test, so that a reader can compute it again.
"""

from typing import NamedTuple

import numpy as np

from stir_core.seeding import generator_for


class Interval(NamedTuple):
    """An estimate with a confidence interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(right: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927).

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"{right} right of {n}: a proportion needs at least one trial and no more successes than trials")
    from scipy.stats import binomtest  # costs most of a second to import, which a page must not

    found = binomtest(right, n).proportion_ci(level, method="wilson")
    return Interval(right / n, float(found.low), float(found.high))


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided McNemar p-value: a fair coin over the problems that the two methods disagree on."""
    from scipy.stats import binomtest

    n = won + lost
    return 1.0 if n == 0 else float(binomtest(won, n, 0.5).pvalue)


def bootstrap_mean(values: np.ndarray, *, level: float = 0.95, draws: int = 10_000, seed: int = 0, name: str = "") -> Interval:
    """Mean with a percentile bootstrap interval over the values (one for each problem).

    Raises:
        ValueError: no values, or one that is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"a mean needs finite values, got shape {list(values.shape)}")
    rng = generator_for(seed, "bootstrap", name)
    means = np.concatenate(
        [values[rng.integers(0, len(values), (min(500, draws - at), len(values)))].mean(1) for at in range(0, draws, 500)]
    )
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(values.mean()), float(low), float(high))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values (Holm 1979), by name."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}
