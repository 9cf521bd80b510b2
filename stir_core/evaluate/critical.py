"""Critical tokens: where a wrong answer was lost. From every k-th token of it, unsteered continuations are sampled and graded; the success
rate falls where the answer took its wrong turn.

Source: after "Critical Tokens Matter" (Lin et al. 2024, arXiv 2411.19943), which finds them by the same rollouts. Says where an answer was
lost, not why, and with few continuations a fall of one is noise: every rate comes with an interval.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, takewhile

from stir_core.config import GateConfig, RunConfig, with_changes
from stir_core.errors import DataError
from stir_core.evaluate.statistics import wilson
from stir_core.findings import CriticalPoint, CriticalRoll, CriticalTrace, Estimate
from stir_core.intervene.controller import steer
from stir_core.intervene.jobs import Job, Settings
from stir_core.models.loading import LoadedModel
from stir_core.records import OnProgress, Problem, Progress, Trace, TraceEvent
from stir_core.requests import CriticalRequest
from stir_core.store.critical import CriticalFile
from stir_core.tasks import Grader


def critical_tokens(
    model: LoadedModel,
    config: RunConfig,
    problem: Problem,
    trace: Trace,
    file: CriticalFile,
    request: CriticalRequest,
    *,
    report: OnProgress = lambda progress: None,
) -> CriticalTrace:
    """Success rate of continuing an answer from its beginning and from every ``request.every``-th token; nothing is sampled twice.

    Raises:
        DataError: the answer is right (nothing was lost), or empty.
    """
    if trace.verdict is None or trace.verdict.correct or not trace.token_ids:
        raise DataError(f"the {file.of} answer to {problem.id} is not a wrong one: critical tokens are those that lose an answer")
    every, rolls = request.every, request.rolls
    positions = list(range(0, len(trace.token_ids), every))
    known = file.rolls()
    have = {(roll.position, roll.rep) for roll in known}
    asked = [(position, rep) for position in positions for rep in range(rolls) if (position, rep) not in have]
    total = len(positions) * rolls
    report(Progress("critical", total - len(asked), total, "continuations"))
    with Grader() as grader:
        for roll in _continued(model, config, problem, trace, asked, request.rows, grader):
            file.append(roll)
            known.append(roll)
            done = sum(r.position in positions and r.rep < rolls for r in known)
            report(Progress("critical", done, total, "continuations"))
    wanted = [roll for roll in known if roll.position in set(positions) and roll.rep < rolls]
    found = sum_up(problem, trace, file.of, every, wanted, piece_texts(model.text, trace.token_ids, every))
    file.write(found)
    return found


def _continued(
    model: LoadedModel, config: RunConfig, problem: Problem, trace: Trace, asked: list[tuple[int, int]], rows: int, grader: Grader
) -> Iterator[CriticalRoll]:
    decode = with_changes(config.decode, temperature=config.rollouts.temperature, top_p=config.rollouts.top_p)
    settings = Settings.of(config, decode, rows)
    prompt = list(trace.prompt_ids)
    jobs = [Job(f"{problem.id}^{position}~{rep}", prompt, GateConfig(), given=trace.token_ids[:position]) for position, rep in asked]
    for event in steer(model, jobs, settings):
        if isinstance(event, TraceEvent):
            position, rep = asked[event.row]
            verdict = grader.judge(problem, event.trace.text)
            tokens = event.trace.tokens_used - event.trace.given
            yield CriticalRoll(position=position, rep=rep, correct=verdict.correct, finished=verdict.finished, tokens=tokens)


def piece_texts(text: Callable[[list[int]], str], ids: Sequence[int], every: int) -> tuple[str, ...]:
    """The text of ``ids`` cut at every ``every``-th token: the pieces join to the whole; half a character goes to the piece that ends it.

    Each cut is the difference of two decoded beginnings, since a tokenizer may drop a space where decoding starts.
    """
    cuts, whole = [0], text(list(ids))
    for end in range(every, len(ids), every):
        same = takewhile(lambda pair: pair[0] == pair[1], zip(whole, text(list(ids[:end])), strict=False))
        cuts.append(sum(1 for _ in same))
    return tuple(whole[start:end] for start, end in pairwise([*cuts, len(whole)]))


def sum_up(problem: Problem, trace: Trace, of: str, every: int, rolls: list[CriticalRoll], pieces: tuple[str, ...] = ()) -> CriticalTrace:
    """Rates by position, and the largest fall between neighbours."""
    points: list[CriticalPoint] = []
    for position in sorted({roll.position for roll in rolls}):
        own = [roll for roll in rolls if roll.position == position]
        right = sum(roll.correct for roll in own)
        rate = wilson(right, len(own))
        points.append(
            CriticalPoint(position=position, rolls=len(own), right=right, rate=Estimate(value=rate.estimate, low=rate.low, high=rate.high))
        )
    falls = [(before.rate.value - after.rate.value, after) for before, after in pairwise(points)]
    fall, at = max(falls, key=lambda pair: pair[0], default=(0.0, None))
    ends, control = 0, []
    for step in trace.steps[:-1]:
        ends += len(step.token_ids)
        control.append(ends)
    return CriticalTrace(
        problem_id=problem.id,
        of=of,
        every=every,
        token_ids=trace.token_ids,
        points=tuple(points),
        lost_at=at.position if at is not None and fall > 0 else None,
        fall=max(0.0, fall),
        control_points=tuple(control),
        steered_at=tuple(end for end, step in zip(control, trace.steps[1:], strict=False) if step.decision.chosen is not None),
        pieces=pieces,
    )
