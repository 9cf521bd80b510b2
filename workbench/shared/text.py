"""Model text made safe and visible: white space drawn, length bounded, Markdown escaped, and text in pieces with roles."""

from typing import Literal, TypedDict

from stir_core.records import Trace

_SIGNS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})


def visible_token(text: str) -> str:
    """A token's text with its white space drawn: ``" the"`` becomes ``"␣the"``."""
    return text.translate(_SIGNS) if text else "∅"


def one_line(text: str, limit: int = 120) -> str:
    """The first ``limit`` characters with runs of white space folded into one space."""
    folded = " ".join(text.split())
    return folded if len(folded) <= limit else folded[: limit - 1].rstrip() + "…"


def plain(text: str) -> str:
    """``text`` with every markdown sign escaped, for Streamlit elements that always read Markdown."""
    return "".join(f"\\{sign}" if sign in _MARKDOWN else sign for sign in text)


def plural(n: int, word: str, words: str = "") -> str:
    """``"1 token"``, ``"1,200 tokens"``; ``words``: a plural without s."""
    return f"{n:,} {word if n == 1 else words or f'{word}s'}"


_MARKDOWN = frozenset("\\`*_{}[]()<>#+-.!|~$:@^=\"'&")


Role = Literal["plain", "past", "steered", "mark", "code"]
"""``past``: before the control point; ``steered``: decoded while an impulse was live; ``mark``: added by the workbench, and ``code`` is
such a mark on a coloured ground."""


class Segment(TypedDict):
    """One piece of text. ``tip`` is shown on hover; ``shade`` in [0, 1] tints it; ``colour`` is the ground of a code."""

    text: str
    role: Role
    tip: str
    shade: float
    colour: str


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


def segment(text: str, role: Role = "plain", tip: str = "", shade: float = 0.0, colour: str = "") -> Segment:
    """A piece of text with its role, tip, shade and colour."""
    return {"text": text, "role": role, "tip": tip, "shade": shade, "colour": colour}
