"""95 % intervals and tests for paired answers. Pure numbers: no model, no files, no text."""

from itertools import accumulate

import numpy as np
from jaxtyping import Real

from stir_core.findings import Estimate
from stir_core.seeding import generator_for


def wilson(right: int, n: int) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927).

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"{right} right of {n}: a proportion needs at least one trial and no more successes than trials")
    from scipy.stats import binomtest  # costs most of a second to import, which a page must not

    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return Estimate(value=right / n, low=float(interval.low), high=float(interval.high))


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided McNemar p-value (McNemar 1947): a binomial test over the problems that one of two methods got right."""
    from scipy.stats import binomtest

    n = won + lost
    return 1.0 if n == 0 else float(binomtest(won, n, 0.5).pvalue)


def bootstrap_mean(values: Real[np.ndarray, "n"], *, draws: int = 10_000, seed: int = 0, name: str = "") -> Estimate:
    """Mean with a percentile bootstrap interval (Efron 1979) over the values, one for each problem.

    Args:
        name: names the random stream of the draws.

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
    low, high = np.quantile(means, [0.5 - 0.95 / 2, 0.5 + 0.95 / 2])
    return Estimate(value=float(values.mean()), low=float(low), high=float(high))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values (Holm 1979), by name."""
    order = sorted(p_values, key=lambda name: p_values[name])
    scaled = [min(1.0, (len(order) - rank) * p_values[name]) for rank, name in enumerate(order)]
    adjusted = dict(zip(order, accumulate(scaled, max), strict=True))
    return {name: adjusted[name] for name in p_values}
