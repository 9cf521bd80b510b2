"""Two answers of a what-if tree side by side: aligned by step, the first difference marked. Text only, no markup."""

from itertools import takewhile
from typing import NamedTuple

from stir_core.intervene.changes import was_forced
from stir_core.records import StepTrace, Trace
from workbench.shared.text_segments import Segment, segment, text_segments
from workbench.what_if.data import parting

FIRST = "⟦first difference⟧"


class Cell(NamedTuple):
    """One step of one answer."""

    head: str
    segments: list[Segment]


class PairRow(NamedTuple):
    """The same step of two answers; ``None`` where an answer had ended."""

    m: int
    same: bool
    """Equal ids and the same impulse."""
    cells: tuple[Cell | None, Cell | None]


def aligned(one: Trace, other: Trace) -> list[PairRow]:
    """Both answers step by step."""
    apart = parting(one, other)
    rows = []
    for place in range(max(len(one.steps), len(other.steps))):
        steps = [trace.steps[place] if place < len(trace.steps) else None for trace in (one, other)]
        a, b = steps
        same = a is not None and b is not None and a.token_ids == b.token_ids and _impulse(a) == _impulse(b)
        shared = None
        if apart is not None and apart.m == place:
            pairs = zip(a.text if a else "", b.text if b else "", strict=False)
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        cells = tuple(_cell(step, shared) if step is not None else None for step in steps)
        rows.append(PairRow(place, same, (cells[0], cells[1])))
    return rows


def whole(trace: Trace, m: int) -> list[Segment]:
    """The answer with its control points numbered; what lies before control point ``m`` is muted, and ``m`` itself is marked."""
    pieces: list[Segment] = []
    for step in trace.steps:
        here = step.m == m
        name = f"⟦{'control point ' if here else ''}{step.m} · {_told(step)}⟧ "
        pieces.append(segment(name, "mark" if here else "past"))
        body = text_segments(step.text, "steered" if step.decision.chosen else "plain")
        pieces += [segment(piece["text"], "past") for piece in body] if step.m < m else body
        pieces.append(segment("\n"))
    return pieces


def _cell(step: StepTrace, shared: int | None) -> Cell:
    role = "steered" if step.decision.chosen else "plain"
    head = f"m {step.m} · {len(step.token_ids)} tokens · {_told(step)}"
    if shared is None:
        return Cell(head, text_segments(step.text, role))
    return Cell(head, [segment(step.text[:shared], "past"), segment(FIRST, "mark"), *text_segments(step.text[shared:], role)])


def _told(step: StepTrace) -> str:
    by = " (forced)" if was_forced(step) else ""
    return (f"{step.decision.chosen} × {step.decision.alpha:.2f}" if step.decision.chosen else "null") + by


def _impulse(step: StepTrace) -> tuple[str | None, float]:
    return step.decision.chosen, round(step.decision.alpha, 5)
