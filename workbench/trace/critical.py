"""Where a wrong held-out answer was lost, as tables, text pieces and one careful sentence.

Refuses to name a place on the strength of a few continuations: where the intervals on both sides of the largest fall overlap, it says so.
"""

from html import escape
from itertools import accumulate
from typing import NamedTuple

import pandas as pd

from stir_core.findings import CriticalPoint, CriticalTrace
from stir_core.records import Decision, Trace
from stir_core.store.critical import CriticalFile, Of
from workbench.shared.facts import RunFacts
from workbench.shared.intervals import with_interval
from workbench.shared.text import Segment, segment

ACTED, NULL, STEP_END = "gate acted", "gate chose null", "end of a step"
"""What stands at a control point; a vanilla answer has no gate and only ends of steps."""
_SIGNS = {ACTED: "◆", NULL: "◇", STEP_END: "◇"}


class Loss(NamedTuple):
    """The largest fall between two neighbouring points."""

    before: CriticalPoint
    after: CriticalPoint
    sure: bool
    """True when the two 95 % intervals do not overlap."""
    back: CriticalPoint | None
    """The first later point whose interval lies above the one after the fall: it was not lost for good."""

    @property
    def label(self) -> str:
        """What it may be called."""
        return "lost here" if self.sure and self.back is None else "largest fall"


def wrong_answers(facts: RunFacts, problem_id: str) -> dict[Of, Trace]:
    """The run's wrong answers to a held-out problem, the steered one first."""
    both: dict[Of, Trace | None] = {"steered": facts.steered.get(problem_id), "vanilla": facts.vanilla.get(problem_id)}
    return {of: trace for of, trace in both.items() if trace and trace.token_ids and trace.verdict and not trace.verdict.correct}


def summaries(facts: RunFacts, wrong: dict[Of, Trace]) -> dict[Of, CriticalTrace]:
    """Those of the wrong answers whose critical tokens were measured; read anew each time, since they are measured after the run.

    Raises:
        StoreError: a summary is malformed.
    """
    summaries = {of: CriticalFile(facts.run, of, trace).read() for of, trace in wrong.items()}
    return {of: summary for of, summary in summaries.items() if summary is not None}


def loss_of(found: CriticalTrace) -> Loss | None:
    """Where the rate falls most; ``None`` where it never falls."""
    at = [point.position for point in found.points]
    if found.lost_at not in at[1:]:
        return None
    index = at.index(found.lost_at)
    before, after = found.points[index - 1], found.points[index]
    back = next((point for point in found.points[index + 1 :] if point.rate.low > after.rate.high), None)
    return Loss(before, after, before.rate.low > after.rate.high, back)


def sentence(found: CriticalTrace) -> str:
    """Where it was lost and what the gate did there, or why that cannot be said."""
    loss, first, last = loss_of(found), found.points[0], found.points[-1]
    if not any(point.right for point in found.points):
        rolls = sum(point.rolls for point in found.points)
        return (
            f"Not one of {rolls} continuations came out right, not even from the beginning ({_rate(first)} of {first.rolls}): "
            "no place where it was lost can be seen."
        )
    if len(found.points) == 1:
        return f"The answer is too short for a second point: {_rate(first)} of continuations from its beginning came out right."
    if loss is None:
        return (
            f"The rate never falls: {_rate(first)} of continuations from the beginning came out right, {_rate(last)} from token "
            f"{last.position}. No place where it was lost can be seen with {_count([first, last])}."
        )
    before, after, sure, back = loss
    if sure:
        said = (
            f"{'Lost' if back is None else 'Largest fall'} between tokens {before.position} and {after.position}: {_rate(before)} of "
            f"continuations from token {before.position} came out right, {_rate(after)} from token {after.position}."
        )
        if back is not None:
            said += f" It was not lost there for good: from token {back.position} it is {_rate(back)} again."
        return f"{said} {gate_line(found, loss)}"
    said = (
        f"The rate falls most between tokens {before.position} and {after.position}, from {_rate(before)} to {_rate(after)}, "
        f"but the intervals overlap: this cannot be told from noise with {_count([before, after])}."
    )
    if first.rate.low > last.rate.high and (first, last) != (before, after):
        said += (
            f" Over the whole answer it does fall, from {_rate(first)} at the beginning to {_rate(last)} at token {last.position}: "
            "it was lost on the way, but between which tokens cannot be said."
        )
    elif last.rate.value >= before.rate.value:
        said += f" From the last point, token {last.position}, it is {_rate(last)} again: what made the answer wrong comes after it."
    return f"{said} {gate_line(found, loss)}"


def gate_line(found: CriticalTrace, loss: Loss) -> str:
    """What the gate did at the last control point before the fall, and at those within it."""
    start, end = loss.before.position, loss.after.position
    earlier = [point for point in found.control_points if point <= start]
    within = [point for point in found.control_points if start < point < end]
    near = [(point, "the control point before it") for point in earlier[-1:]] + [(point, "a control point within it") for point in within]
    if found.of == "vanilla":
        at = ", and at ".join(f"token {point}, {where}" for point, where in near)
        return f"This answer is not steered; a gate could have acted at {at}." if at else "No step ends before it."
    if not near:
        return "No control point lies before it: the first step is never steered."
    said = [f"{'acted' if point in found.steered_at else 'did not act'} at token {point}, {where}" for point, where in near]
    return f"The gate {', and '.join(said)}."


def rates_note(facts: RunFacts, trace: Trace, found: CriticalTrace) -> str:
    """What the rates rest on, and how they mislead."""
    sampling, falls = facts.config.rollouts, len(found.points) - 1
    lines = [
        f"{_count(found.points)} each from {len(found.points)} points {found.every} tokens apart, not steered, "
        f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}. Intervals: Wilson 95 %."
    ]
    if loss_of(found) and falls > 1:
        lines.append(f"The largest of {falls} falls was picked, so it looks larger than it is.")
    if trace.finish == "length":
        lines.append(
            f"The answer was cut at {trace.tokens_used} tokens, a limit that continuations share: late ones have little room left."
        )
    return " ".join(lines)


def rate_table(found: CriticalTrace) -> pd.DataFrame:
    """One row a point, rates in percent."""
    rows = [
        (point.position, 100 * point.rate.value, 100 * point.rate.low, 100 * point.rate.high, f"{point.right} of {point.rolls} right")
        for point in found.points
    ]
    return pd.DataFrame(rows, columns=["position", "value", "low", "high", "hover"])


def control_table(found: CriticalTrace, trace: Trace) -> pd.DataFrame:
    """One row a control point of the answer: what the gate did there, and why."""
    decisions = {end: step.decision for end, step in zip(_step_ends(trace), trace.steps[1:], strict=True)}
    rows = [
        (position, _fate(found, position), f"control point {number}<br>{escape(_why(found, decisions.get(position)))}")
        for number, position in enumerate(found.control_points, start=1)
    ]
    return pd.DataFrame(rows, columns=["position", "fate", "hover"])


def critical_segments(found: CriticalTrace, trace: Trace) -> list[Segment]:
    """The answer in its pieces, tinted by rate, with the control points where its steps end and the fall in brackets."""
    loss, marks, whole = loss_of(found), _marks_in_text(found, trace), "".join(found.pieces)
    pieces: list[Segment] = []
    at = 0
    for point, text in zip(found.points, found.pieces, strict=True):
        lost = loss is not None and point == loss.before
        if lost and loss:
            pieces.append(segment(f"⟦{loss.label}:{'' if text[:1].isspace() else ' '}", "mark"))
        last = min(point.position + found.every, len(found.token_ids))
        tip = f"tokens {point.position + 1} to {last} · {point.right} of {point.rolls} right when continued before them, {_rate(point)}"
        cuts = [cut for cut in marks if at <= cut < at + len(text)]
        starts = sorted({at, *cuts})
        for start, end in zip(starts, [*starts[1:], at + len(text)], strict=True):
            mark = [marks[start]] if start in cuts else []
            pieces += [*mark, segment(whole[start:end], "plain", tip, point.rate.value)]
        at += len(text)
        if lost:
            pieces.append(segment("⟧", "mark"))
    return [piece for piece in pieces if piece["text"]]


def _marks_in_text(found: CriticalTrace, trace: Trace) -> dict[int, Segment]:
    """Control points by their place in the text; none where the steps' texts do not join to that of the pieces."""
    if "".join(step.text for step in trace.steps) != "".join(found.pieces):
        return {}
    marks, at = {}, 0
    for end, step, after in zip(_step_ends(trace), trace.steps, trace.steps[1:], strict=False):
        at += len(step.text)
        if end in found.control_points:
            fate = _fate(found, end)
            tip = f"token {end} · {_why(found, after.decision)}"
            marks[at] = segment(f"{_SIGNS[fate]} ", "mark" if fate == ACTED else "past", tip)
    return marks


def _step_ends(trace: Trace) -> list[int]:
    """Tokens after which each step but the last was finished."""
    return list(accumulate(len(step.token_ids) for step in trace.steps[:-1]))


def _fate(found: CriticalTrace, position: int) -> str:
    return STEP_END if found.of == "vanilla" else ACTED if position in found.steered_at else NULL


def _why(found: CriticalTrace, decision: Decision | None) -> str:
    if found.of == "vanilla":
        return "a step ends here; nothing is steered in a vanilla answer"
    if decision is None:
        return "not in the recorded answer"
    done = f"committed {decision.chosen} × {decision.alpha:.2f}: " if decision.chosen else "null: "
    return f"{done}{decision.reason}"


def _rate(point: CriticalPoint) -> str:
    return with_interval(point.rate, "{:.0f}", 100).replace(" [", " % [")


def _count(points: list[CriticalPoint] | tuple[CriticalPoint, ...]) -> str:
    low, high = min(point.rolls for point in points), max(point.rolls for point in points)
    return f"{low} continuation{'' if high == 1 else 's'}" if low == high else f"{low} to {high} continuations"
