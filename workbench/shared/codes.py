"""Codes of steps as labels that several pages draw alike, and a coded answer as text."""

from collections.abc import Sequence

from stir_core.records import StepState
from workbench.shared.text import Segment, segment, text_segments

CATEGORIES = ("#d55e00", "#3a87c8", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#b2a000", "#7f7f7f", "#a6761d")
"""Colours of unordered categories, also on charts: distinguishable with colour-blindness, on light and dark backgrounds."""


def code_colour(code: int) -> str:
    """Background of a code's label, readable under dark text; colours repeat after ten codes, so the number stands on every label."""
    return CATEGORIES[code % len(CATEGORIES)]


def code_segments(rows: Sequence[StepState], codes: Sequence[int], tail: str) -> list[Segment]:
    """An answer step by step, each step behind the label of its code; ``tail``: what follows its last finished step."""
    pieces: list[Segment] = []
    for row, code in zip(rows, codes, strict=True):
        pieces.append(segment(f" {code} ", "code", f"code {code} · step {row.m} · {row.n_tokens} tokens", colour=code_colour(code)))
        pieces += [segment(" "), *text_segments(row.text), segment("\n")]
    return [*pieces, segment(tail, "past")]
