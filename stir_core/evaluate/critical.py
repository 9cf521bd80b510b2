"""Critical tokens: where a wrong answer was lost. From every k-th token of it, unsteered continuations are sampled and graded; the success
rate falls where the answer took its wrong turn.

Source: after "Critical Tokens Matter" (Lin et al. 2024, arXiv 2411.19943), which finds them by the same rollouts. Says where an answer was
lost, not why, and with few continuations a fall of one is noise: every rate comes with an interval.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise, takewhile

from stir_core.config import GateConfig, RunConfig, with_changes
from stir_core.errors import DataError
from stir_core.evaluate.statistics import wilson
from stir_core.findings import CriticalPoint, CriticalRoll, CriticalTrace
from stir_core.intervene.controller import steer
from stir_core.intervene.jobs import Job, Settings
from stir_core.models.loading import LoadedModel
from stir_core.records import OnProgress, Problem, Progress, Trace, finished_traces
from stir_core.requests import CriticalRequest
from stir_core.store.critical import CriticalFile
from stir_core.tasks import Grader
from stir_core.tasks.thinking import graded_part


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
        raise DataError(
            f"the {file.of} answer to {problem.id} is not a wrong one: choose one that is, critical tokens are those that lose an answer"
        )
    points = [(position, rep) for position in range(0, len(trace.token_ids), request.every) for rep in range(request.rolls)]
    with file.writer():
        known = {(roll.position, roll.rep): roll for roll in file.rolls()}
        missing = [point for point in points if point not in known]
        done, decoded = len(points) - len(missing), 0
        report(Progress("critical", done, len(points), "continuations"))
        decode = with_changes(config.decode, temperature=config.rollouts.temperature, top_p=config.rollouts.top_p)
        settings, prompt = Settings.of(config, decode, request.rows), list(trace.prompt_ids)
        jobs = [Job(f"{problem.id}^{position}~{rep}", prompt, GateConfig(), given=trace.token_ids[:position]) for position, rep in missing]
        with Grader() as grader:
            for row, answer in finished_traces(steer(model, jobs, settings)):
                position, rep = missing[row]
                verdict, tokens = grader.judge(problem, graded_part(answer.text, answer.thinking)), answer.tokens_used - answer.given
                roll = CriticalRoll(position=position, rep=rep, correct=verdict.correct, finished=verdict.finished, tokens=tokens)
                file.append(roll)
                known[position, rep] = roll
                done, decoded = done + 1, decoded + tokens
                report(Progress("critical", done, len(points), "continuations", decoded))
        pieces = piece_texts(model.text, trace.token_ids, request.every)
        summary = critical_trace(problem, trace, file.of, request.every, [known[point] for point in points], pieces)
        file.write(summary)
        return summary


def piece_texts(text: Callable[[list[int]], str], ids: Sequence[int], every: int) -> tuple[str, ...]:
    """The text of ``ids``, cut after every ``every``-th token. The pieces join to the whole; a character that is cut goes to the later one.

    Each cut is found by decoding the beginning up to it, since a tokenizer may drop a space where decoding starts.
    """
    cuts, whole = [0], text(list(ids))
    for end in range(every, len(ids), every):
        same = takewhile(lambda pair: pair[0] == pair[1], zip(whole, text(list(ids[:end])), strict=False))
        cuts.append(len(list(same)))
    return tuple(whole[start:end] for start, end in pairwise([*cuts, len(whole)]))


def critical_trace(
    problem: Problem, trace: Trace, of: str, every: int, rolls: list[CriticalRoll], pieces: tuple[str, ...] = ()
) -> CriticalTrace:
    """Success rates by position, and the largest fall between neighbouring positions."""
    outcomes: dict[int, list[bool]] = defaultdict(list)
    for roll in rolls:
        outcomes[roll.position].append(roll.correct)
    points = [
        CriticalPoint(position=position, rolls=len(own), right=sum(own), rate=wilson(sum(own), len(own)))
        for position, own in sorted(outcomes.items())
    ]
    falls = [(before.rate.value - after.rate.value, after.position) for before, after in pairwise(points)]
    fall, position = max(falls, key=lambda pair: pair[0], default=(0.0, None))
    ends = tuple(accumulate(len(step.token_ids) for step in trace.steps[:-1]))
    return CriticalTrace(
        problem_id=problem.id,
        of=of,
        every=every,
        token_ids=trace.token_ids,
        points=tuple(points),
        lost_at=position if fall > 0 else None,
        fall=max(0.0, fall),
        control_points=ends,
        steered_at=tuple(end for end, step in zip(ends, trace.steps[1:], strict=True) if step.decision.chosen is not None),
        pieces=pieces,
    )
