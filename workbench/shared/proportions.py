"""Counts of successes with an honest interval. Refuses to turn "no observations" into a number."""

import math
from typing import NamedTuple

Z95 = 1.959963984540054


class Proportion(NamedTuple):
    """``k`` of ``n`` with its Wilson 95 % interval; all three are ``None`` when ``n`` is 0."""

    k: int
    n: int
    rate: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.rate is None or self.low is None or self.high is None:
            return "not measured"
        return f"{self.rate:.1%} ({self.k} of {self.n}; 95 % CI {self.low:.0%} to {self.high:.0%})"


def proportion(k: int, n: int, z: float = Z95) -> Proportion:
    """Wilson score interval (Wilson 1927); stays inside [0, 1] and is usable at small ``n``."""
    if n == 0:
        return Proportion(k, n, None, None, None)
    rate = k / n
    denominator = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / denominator
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / denominator
    return Proportion(k, n, rate, max(0.0, centre - half), min(1.0, centre + half))
