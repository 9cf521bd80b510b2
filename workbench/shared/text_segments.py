"""Model text cut into pieces with a role, ready to be drawn as text: nothing is dropped or escaped.

Line ends that close a step (its delimiter) are drawn as ``↵``, since they are tokens in their own right: an impulse is injected at them.
"""

from typing import Literal, TypedDict

from stir_core.records import Trace
from workbench.shared.action_card import Side
from workbench.shared.trace_comparison import StepRow
from workbench.shared.visible_text import visible_token

Role = Literal["plain", "past", "steered", "mark"]
"""``past``: before the control point; ``steered``: decoded while an impulse was live; ``mark``: ours, not the model's."""


class Segment(TypedDict):
    """One piece of text; ``tip`` is shown while it is pointed at, ``shade`` in [0, 1] tints it (its surprise)."""

    text: str
    role: Role
    tip: str
    shade: float


def side_segments(side: Side, m: int) -> list[Segment]:
    """A rollout with its control point marked: muted prefix, a mark, then what followed."""
    mark = f"⟦control point {m}⟧ "
    tip = "" if side.tokens_before is None else f"state taken at generated token {side.tokens_before}, the last of the prefix"
    return [segment(side.before, "past"), segment(mark, "mark", tip), segment(side.after)]


def drawn_tokens(row: StepRow) -> list[str]:
    """The tokens of one step as they are drawn; empty for a token that adds no text (half a character, the end of the text)."""
    body = max((i for i, token in enumerate(row.tokens) if token.text.strip("\n")), default=-1)
    found = []
    for i, token in enumerate(row.tokens):
        words = token.text.rstrip("\n") if i >= body else token.text
        found.append(words + "↵" * (len(token.text) - len(words)))
    return found


def text_segments(text: str, role: Role = "plain") -> list[Segment]:
    """A recorded step: its text, and the line ends that close it as a mark."""
    body = text.rstrip("\n")
    return [segment(body, role), segment(visible_token(text[len(body) :]) if len(body) < len(text) else "", "past")]


def trace_segments(trace: Trace) -> list[Segment]:
    """A whole answer with its steps numbered and its impulses marked."""
    pieces: list[Segment] = []
    for step in trace.steps:
        fired = step.decision.chosen
        pieces.append(segment(f"⟦{step.m}{f' · {fired} × {step.decision.alpha:.2f}' if fired else ''}⟧ ", "mark"))
        pieces += [*text_segments(step.text, "steered" if fired else "plain"), segment("\n")]
    return pieces


def segment(text: str, role: Role = "plain", tip: str = "", shade: float = 0.0) -> Segment:
    """One piece."""
    return {"text": text, "role": role, "tip": tip, "shade": shade}
