"""Where a wrong held-out answer was lost, as tables, text pieces and one careful sentence.

The sentence names no place where the intervals on both sides of the largest fall overlap; it says that they do.
"""

from html import escape
from typing import Literal, NamedTuple

import pandas as pd

from stir_core.evaluate.statistics import LEVEL
from stir_core.findings import CriticalPoint, CriticalTrace, StepImportance, p_text
from stir_core.records import Decision, Trace
from stir_core.store.critical import CriticalFile, Of
from workbench.shared.facts import RunFacts
from workbench.shared.intervals import with_interval
from workbench.shared.text import Segment, segment

ACTED, NULL, STEP_END = "gate acted", "gate chose null", "end of a step"
"""Kinds of control point; a vanilla answer has no gate and only ends of steps."""
_SIGNS = {ACTED: "◆", NULL: "◇", STEP_END: "◇"}


class Loss(NamedTuple):
    """The largest fall between two neighbouring points."""

    before: CriticalPoint
    after: CriticalPoint
    sure: bool
    """True when the two 95 % intervals do not overlap."""
    back: CriticalPoint | None
    """The first later point whose interval lies above the one after the fall: the answer was not lost for good."""

    @property
    def label(self) -> str:
        """The strongest claim that the intervals allow."""
        return "lost here" if self.sure and self.back is None else "largest fall"


def wrong_answers(facts: RunFacts, problem_id: str) -> dict[Of, Trace]:
    """The run's wrong answers to a held-out problem, the steered one first."""
    both: dict[Of, Trace | None] = {"steered": facts.steered.get(problem_id), "vanilla": facts.vanilla.get(problem_id)}
    return {of: trace for of, trace in both.items() if trace and trace.token_ids and trace.verdict and not trace.verdict.correct}


def answers_in_steps(facts: RunFacts, problem_id: str) -> dict[Of, Trace]:
    """The run's answers to a held-out problem that have at least two steps, right or wrong, the steered one first."""
    both: dict[Of, Trace | None] = {"steered": facts.steered.get(problem_id), "vanilla": facts.vanilla.get(problem_id)}
    return {of: trace for of, trace in both.items() if trace and len(trace.steps) > 1}


def summaries(facts: RunFacts, answers: dict[Of, Trace], at: Literal["tokens", "steps"] = "tokens") -> dict[Of, CriticalTrace]:
    """Measurements of the answers that have one. Read anew each time, since they are made after the run.

    Raises:
        StoreError: a summary is malformed.
    """
    measured: dict[Of, CriticalTrace | None] = {of: CriticalFile(facts.run, of, trace).read(at) for of, trace in answers.items()}
    return {of: summary for of, summary in measured.items() if summary is not None}


def loss_of(summary: CriticalTrace) -> Loss | None:
    """Where the rate falls most; ``None`` where it never falls."""
    at = [point.position for point in summary.points]
    if summary.lost_at not in at[1:]:
        return None
    index = at.index(summary.lost_at)
    before, after = summary.points[index - 1], summary.points[index]
    back = next((point for point in summary.points[index + 1 :] if point.rate.bounds[0] > after.rate.bounds[1]), None)
    return Loss(before, after, before.rate.bounds[0] > after.rate.bounds[1], back)


def sentence(summary: CriticalTrace) -> str:
    """Where the answer was lost and what the gate did there, or why the place cannot be named."""
    loss, first, last = loss_of(summary), summary.points[0], summary.points[-1]
    if not any(point.right for point in summary.points):
        rolls = sum(point.rolls for point in summary.points)
        return (
            f"Not one of {rolls} continuations came out right, not even from the beginning ({_rate(first)} of {first.rolls}): "
            "no place where it was lost can be seen."
        )
    if len(summary.points) == 1:
        return f"The answer is too short for a second point: {_rate(first)} of continuations from its beginning came out right."
    if loss is None:
        return (
            f"The rate never falls: {_rate(first)} of continuations from the beginning came out right, {_rate(last)} from token "
            f"{last.position}. No place where it was lost can be seen with {_count([first, last])}."
        )
    before, after, sure, back = loss
    if sure:
        text = (
            f"{'Lost' if back is None else 'Largest fall'} between tokens {before.position} and {after.position}: {_rate(before)} of "
            f"continuations from token {before.position} came out right, {_rate(after)} from token {after.position}."
        )
        if back is not None:
            text += f" It was not lost there for good: from token {back.position} it is {_rate(back)} again."
        return f"{text} {gate_line(summary, loss)}"
    text = (
        f"The rate falls most between tokens {before.position} and {after.position}, from {_rate(before)} to {_rate(after)}, "
        f"but the intervals overlap: this cannot be told from noise with {_count([before, after])}."
    )
    if first.rate.bounds[0] > last.rate.bounds[1] and (first, last) != (before, after):
        text += (
            f" Over the whole answer it does fall, from {_rate(first)} at the beginning to {_rate(last)} at token {last.position}: "
            "it was lost on the way, but the tokens cannot be named."
        )
    elif last.rate.value >= before.rate.value:
        text += f" From the last point, token {last.position}, it is {_rate(last)} again: the answer went wrong after it."
    return f"{text} {gate_line(summary, loss)}"


def gate_line(summary: CriticalTrace, loss: Loss) -> str:
    """What the gate did at the last control point before the fall, and at those within it."""
    start, end = loss.before.position, loss.after.position
    earlier = [point for point in summary.control_points if point <= start]
    within = [point for point in summary.control_points if start < point < end]
    near = [(point, "the control point before it") for point in earlier[-1:]] + [(point, "a control point within it") for point in within]
    if summary.of == "vanilla":
        at = ", and at ".join(f"token {point}, {where}" for point, where in near)
        return f"This answer is not steered; a gate could have acted at {at}." if at else "No step ends before it."
    if not near:
        return "No control point lies before it: the first step is never steered."
    text = [f"{'acted' if point in summary.steered_at else 'did not act'} at token {point}, {where}" for point, where in near]
    return f"The gate {', and '.join(text)}."


def rates_note(facts: RunFacts, trace: Trace, summary: CriticalTrace) -> str:
    """Sample sizes, sampler and caveats of the rates."""
    sampling, falls = facts.config.rollouts, len(summary.points) - 1
    lines = [
        f"{_count(summary.points)} each from {len(summary.points)} points {summary.every} tokens apart, not steered, "
        f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}. Intervals: Wilson 95 %."
    ]
    if loss_of(summary) and falls > 1:
        lines.append(f"The largest of {falls} falls was picked, so it looks larger than it is.")
    if trace.finish == "length":
        lines.append(
            f"The answer was cut at {trace.tokens_used} tokens, a limit that continuations share: late ones have little room left."
        )
    return " ".join(lines)


def rate_table(summary: CriticalTrace) -> pd.DataFrame:
    """One row per point, rates in percent."""
    rows = [
        (point.position, *(100 * end for end in (point.rate.value, *point.rate.bounds)), f"{point.right} of {point.rolls} right")
        for point in summary.points
    ]
    return pd.DataFrame(rows, columns=["position", "value", "low", "high", "hover"])


def control_table(summary: CriticalTrace, trace: Trace) -> pd.DataFrame:
    """One row per control point of the answer: what the gate did there, and why."""
    decisions = {end: step.decision for end, step in zip(trace.step_ends, trace.steps[1:], strict=True)}
    rows = [
        (position, _fate(summary, position), f"control point {number}<br>{escape(_why(summary, decisions.get(position)))}")
        for number, position in enumerate(summary.control_points, start=1)
    ]
    return pd.DataFrame(rows, columns=["position", "fate", "hover"])


def critical_segments(summary: CriticalTrace, trace: Trace) -> list[Segment]:
    """The answer in pieces tinted by rate, its control points marked and the largest fall in brackets."""
    loss, marks, whole = loss_of(summary), _marks_in_text(summary, trace), "".join(summary.pieces)
    pieces: list[Segment] = []
    at = 0
    for point, text in zip(summary.points, summary.pieces, strict=True):
        lost = loss is not None and point == loss.before
        if lost and loss:
            pieces.append(segment(f"⟦{loss.label}:{'' if text[:1].isspace() else ' '}", "mark"))
        last = min(point.position + summary.every, len(summary.token_ids))
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


DECIDES, OPEN = "changes the answers", "not told from chance"
"""What a step does, by the corrected p of its divergence."""


def steps_sentence(summary: CriticalTrace) -> str:
    """Which steps change the answers that follow, as far as the continuations can tell."""
    sure = [each for each in summary.steps if each.p_holm < LEVEL]
    counts = f"{len(summary.steps)} step{'s' * (len(summary.steps) != 1)} with {_count(summary.points)} on each side"
    if not sure:
        return f"Of {counts}, none is seen to change which answers follow: each divergence can be chance."
    named = [f"step {each.step}{_turn(each)}" for each in sorted(sure, key=lambda each: -each.kl)]
    return f"Of {counts}, {len(sure)} {'changes' if len(sure) == 1 else 'change'} which answers follow: {'; '.join(named)}."


def _turn(step: StepImportance) -> str:
    """The most frequent answer before and after a step, where they differ."""
    first, last = next(iter(step.before), ""), next(iter(step.after), "")
    return f" (from {first or 'no answer'} to {last or 'no answer'})" if first != last else ""


def importance_table(summary: CriticalTrace) -> pd.DataFrame:
    """One row per step: its tokens, divergence, what it does, and a tooltip with the answers on both sides."""

    def listed(counts: dict[str, int]) -> str:
        shown = [f"{escape(answer[:24]) or 'no answer'} × {count}" for answer, count in list(counts.items())[:4]]
        return ", ".join(shown) + (f" and {len(counts) - 4} more" if len(counts) > 4 else "")

    rows = [
        (
            each.step,
            each.start,
            each.end,
            each.kl,
            DECIDES if each.p_holm < LEVEL else OPEN,
            f"step {each.step}, p {p_text(each.p_holm)} after Holm<br>before: {listed(each.before)}<br>after: {listed(each.after)}",
        )
        for each in summary.steps
    ]
    return pd.DataFrame(rows, columns=["step", "start", "end", "kl", "does", "hover"])


def _marks_in_text(summary: CriticalTrace, trace: Trace) -> dict[int, Segment]:
    """Control points by their offset in the text; empty where the steps' texts do not join to that of the pieces."""
    if "".join(step.text for step in trace.steps) != "".join(summary.pieces):
        return {}
    marks, at = {}, 0
    for end, step, after in zip(trace.step_ends, trace.steps, trace.steps[1:], strict=False):
        at += len(step.text)
        if end in summary.control_points:
            fate = _fate(summary, end)
            tip = f"token {end} · {_why(summary, after.decision)}"
            marks[at] = segment(f"{_SIGNS[fate]} ", "mark" if fate == ACTED else "past", tip)
    return marks


def _fate(summary: CriticalTrace, position: int) -> str:
    if summary.of == "vanilla":
        return STEP_END
    return ACTED if position in summary.steered_at else NULL


def _why(summary: CriticalTrace, decision: Decision | None) -> str:
    if summary.of == "vanilla":
        return "a step ends here; nothing is steered in a vanilla answer"
    if decision is None:
        return "not in the recorded answer"
    done = f"committed {decision.chosen} × {decision.alpha:.2f}: " if decision.chosen else "null: "
    return f"{done}{decision.reason}"


def _rate(point: CriticalPoint) -> str:
    return with_interval(point.rate, ".0%")


def _count(points: list[CriticalPoint] | tuple[CriticalPoint, ...]) -> str:
    low, high = min(point.rolls for point in points), max(point.rolls for point in points)
    return f"{low} continuation{'' if high == 1 else 's'}" if low == high else f"{low} to {high} continuations"
