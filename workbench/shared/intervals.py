"""Proportions with Wilson intervals, and measured intervals in words. No observations give no number."""

import math
from typing import NamedTuple

from stir_core.findings import Advantage, Estimate

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


def interval(estimate: Estimate | Advantage, form: str, times: float = 1.0) -> str:
    """``"[low, high]"``."""
    return f"[{form.format(times * estimate.low)}, {form.format(times * estimate.high)}]".replace("-", "−")


def with_interval(estimate: Estimate | Advantage, form: str, times: float = 1.0) -> str:
    """``"value [low, high]"``."""
    return form.format(times * estimate.value).replace("-", "−") + " " + interval(estimate, form, times)


def verdict_of(estimate: Estimate | Advantage) -> str:
    """``"helps"`` or ``"harms"`` where the interval excludes 0, else ``"no effect seen"``."""
    if estimate.low > 0:
        return "helps"
    return "harms" if estimate.high < 0 else "no effect seen"


def advantage_text(advantage: Advantage) -> str:
    """``"+0.125 [−0.050, +0.300]"``."""
    return with_interval(advantage, "{:+.3f}")


def measured_line(advantage: Advantage) -> str:
    """Sample size and test of a measured advantage."""
    tokens = with_interval(advantage.tokens, "{:+.1f}")
    return (
        f"measured at {counted_states(advantage.states)}, {advantage.pairs} pairs of continuations with and without it: "
        f"{advantage.won} won, {advantage.lost} lost, p {advantage.p:.3f}; tokens of the answer {tokens}"
    )


def counted_states(states: int) -> str:
    return f"{states} state{'' if states == 1 else 's'}"
