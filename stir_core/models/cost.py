"""Count the cost of forward passes as they are fed: token positions, positions attended to, rows of logits; and FLOPs from these.

These are counts and a formula, not measurements, so they are the same on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stir_core.models.sizes import Shape

if TYPE_CHECKING:
    from stir_core.models.passes import Feed


@dataclass(frozen=True)
class Cost:
    """Work done by forward passes; adds up."""

    tokens: int = 0
    """Token positions run through the blocks."""
    attended: int = 0
    """Sum over these of the positions that each one reads, its own included."""
    logits: int = 0
    """Positions whose logits were computed."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.tokens + other.tokens, self.attended + other.attended, self.logits + other.logits)


def cost_of(feeds: "Sequence[Feed]") -> Cost:
    """Cost of a pass over these feeds; call it before the pass, while the rows still have their old lengths."""
    total = Cost()
    for feed in feeds:
        n, before = len(feed.ids), feed.row.total
        logits = n if feed.every else 1
        total += Cost(n, n * before + n * (n + 1) // 2, logits if feed.logits else 0)
    return total


def decoding_cost(prompt: int, answers: Sequence[int]) -> Cost:
    """Cost of answers of these lengths to one prompt, all in tokens: the prompt is read once, and the last token of an answer is not."""
    total = Cost(prompt, prompt * (prompt + 1) // 2, 1)
    for n in answers:
        total += Cost(n - 1, (n - 1) * prompt + n * (n - 1) // 2, n - 1)
    return total


def flops(shape: Shape, cost: Cost) -> float:
    """Floating-point operations of this cost: two for each weight and token, four for each attended position and unit of width.

    Source: after Kaplan et al. 2020 (arXiv 2001.08361), with attention (scores and weighted sum) counted by the positions actually read.
    Sliding windows are not taken into account.
    """
    attention = 4.0 * shape.attention_width * cost.attended
    return 2.0 * shape.block_parameters * cost.tokens + attention + 2.0 * shape.head_parameters * cost.logits
