"""Proportions with Wilson intervals, and measured intervals in words. No observations give no number."""

from typing import NamedTuple

from stir_core.evaluate.statistics import wilson
from stir_core.findings import Advantage, ArmEffect, Estimate, p_text


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


def proportion(k: int, n: int) -> Proportion:
    """``k`` of ``n`` with its interval."""
    if n == 0:
        return Proportion(k, n, None, None, None)
    found = wilson(k, n)
    return Proportion(k, n, found.value, found.low, found.high)


def interval(estimate: Estimate, form: str, times: int = 1) -> str:
    """``"[low, high]"`` with minus signs, or why there is none."""
    return estimate.interval(form, times).replace("-", "−")


def with_interval(estimate: Estimate, form: str) -> str:
    """``"+0.125 [−0.050, +0.300]"`` for ``+.3f``."""
    return f"{estimate:{form}}".replace("-", "−")


def measured_line(advantage: Advantage) -> str:
    """Sample size and test of a measured advantage."""
    tokens, holm = with_interval(advantage.tokens, "+.1f"), f" (Holm {p_text(advantage.p_holm)})" if advantage.p_holm is not None else ""
    test = f", p {p_text(advantage.p)}{holm}" if advantage.p is not None else ""
    return (
        f"measured at {counted_states(advantage)}, {advantage.pairs} pairs of continuations with and without it: "
        f"{advantage.won} won, {advantage.lost} lost{test}; tokens of the answer {tokens}"
    )


def counted_states(effect: Advantage | ArmEffect) -> str:
    """``"8 states of 5 problems"``."""
    states = f"{effect.states} state{'' if effect.states == 1 else 's'}"
    return states if effect.problems is None else f"{states} of {effect.problems} problem{'' if effect.problems == 1 else 's'}"
