"""Simulated causal studies with a known effect: many more than a model can give, so they measure the coverage of intervals finely."""

from typing import Any

import numpy as np

from stir_core.evaluate.statistics import clustered_difference


def simulated_study(
    rng: np.random.Generator,
    problems: int,
    *,
    gain: float = 0.0,
    spread: float = 0.0,
    states: int = 1,
    rolls: int = 4,
    unequal: bool = False,
    redrawn: float = 0.33,
) -> list[list[float]]:
    """Paired differences by problem. Each problem has a rate of right answers and an effect of its own, which its states and rolls share.

    Args:
        gain: mean effect; ``spread``: its standard deviation between problems.
        unequal: problems have from one to ``2 * states - 1`` states.
        redrawn: share of pairs whose two answers do not share their random numbers.
    """
    groups: list[list[float]] = []
    for _ in range(problems):
        rate = 0.3 + 0.4 * rng.random()
        own = gain + spread * rng.choice([-1, 1])
        n = rolls * (int(rng.integers(1, 2 * states)) if unequal else states)
        first = rng.random(n)
        second = np.where(rng.random(n) < redrawn, rng.random(n), first)
        groups.append(((second < rate + own).astype(float) - (first < rate)).tolist())
    return groups


DESIGNS: tuple[tuple[int, dict[str, Any]], ...] = (
    (9, {}),
    (8, {"gain": 0.15, "spread": 0.1}),
    (12, {"states": 3, "spread": 0.2}),
    (15, {"states": 3, "unequal": True, "gain": 0.1, "spread": 0.1}),
    (30, {"rolls": 1}),
    (30, {"states": 2, "gain": -0.1, "spread": 0.15, "unequal": True}),
    (60, {"gain": 0.05, "spread": 0.2}),
    (60, {"rolls": 1, "gain": 0.1}),
)
"""Problems of a simulated study, and the rest of :func:`simulated_study`."""


def simulated_coverage(studies: int, seed: int = 0) -> float:
    """Share of intervals that hold the true effect, over so many simulated studies of each of :data:`DESIGNS`."""
    rng = np.random.default_rng(seed)
    inside = 0
    for problems, how in DESIGNS:
        for _ in range(studies):
            low, high = clustered_difference(simulated_study(rng, problems, **how))[0].bounds
            inside += low <= how.get("gain", 0.0) <= high
    return inside / (studies * len(DESIGNS))
