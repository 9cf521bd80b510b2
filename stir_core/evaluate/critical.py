"""Critical tokens and steps: unsteered continuations of an answer from places within it are sampled and graded. The success rate falls
where a wrong answer took its wrong turn; and a step matters as far as the answers that follow it differ from those that follow its start.

Sources: after "Critical Tokens Matter" (Lin et al. 2024, arXiv 2411.19943), and the resampling importance of "Thought Anchors" (Bogdan et
al. 2025, arXiv 2506.19143). Both say where, not why, and with few continuations a change is noise: every rate comes with an interval, every
divergence with the share of random divisions that reach it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile

import numpy as np
from jaxtyping import Float, Int

from stir_core.config import GateConfig, RunConfig
from stir_core.errors import DataError
from stir_core.evaluate.statistics import holm, wilson
from stir_core.findings import CriticalPoint, CriticalRoll, CriticalTrace, StepImportance
from stir_core.intervene.changes import roll_name, sampled
from stir_core.intervene.controller import steer
from stir_core.intervene.jobs import Job, Settings
from stir_core.models.loading import LoadedModel
from stir_core.records import OnProgress, Problem, Progress, Trace, finished_traces
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
    """Continuations of an answer from its beginning, and from every ``request.every``-th token or every end of a step; nothing is sampled
    twice.

    Raises:
        DataError: the answer is empty; from tokens: it is right (nothing was lost); from steps: it has one step.
    """
    steps = request.at == "steps"
    if not steps and (trace.verdict is None or trace.verdict.correct or not trace.token_ids):
        raise DataError(
            f"the {file.of} answer to {problem.id} is not a wrong one: choose one that is, critical tokens are those that lose an answer"
        )
    if steps and len(trace.steps) < 2:
        raise DataError(f"the {file.of} answer to {problem.id} has {len(trace.steps)} step: choose one with at least two")
    every = 0 if steps else request.every
    positions = (0, *trace.step_ends) if steps else range(0, len(trace.token_ids), every)
    points = [(position, rep) for position in positions for rep in range(request.rolls)]
    with file.writer():
        known = {(roll.position, roll.rep): roll for roll in file.rolls() if roll.answer is not None or not steps}
        missing = [point for point in points if point not in known]
        done, decoded = len(points) - len(missing), 0
        report(Progress("critical", done, len(points), "continuations"))
        settings, prompt = Settings.of(config, sampled(config.decode, config), request.rows), list(trace.prompt_ids)
        jobs = [
            Job(roll_name(problem.id, position, rep), prompt, GateConfig(), given=trace.token_ids[:position]) for position, rep in missing
        ]
        with Grader() as grader:
            for row, answer, verdict in grader.judge_traces(finished_traces(steer(model, jobs, settings)), lambda _: problem):
                (position, rep), tokens = missing[row], answer.tokens_used - answer.given
                graded = {"correct": verdict.correct, "finished": verdict.finished, "answer": verdict.extracted or ""}
                roll = CriticalRoll(position=position, rep=rep, tokens=tokens, **graded)
                file.append(roll)
                known[position, rep] = roll
                done, decoded = done + 1, decoded + tokens
                report(Progress("critical", done, len(points), "continuations", decoded))
        pieces = piece_texts(model.text, trace.token_ids, positions)
        summary = critical_trace(problem, trace, file.of, every, [known[point] for point in points], pieces)
        file.write(summary)
        return summary


def piece_texts(text: Callable[[list[int]], str], ids: Sequence[int], positions: Sequence[int]) -> tuple[str, ...]:
    """The text of ``ids``, cut at token ``positions``, of which the first is 0. The pieces join to the whole; a character that is cut goes
    to the later one.

    Each cut is found by decoding the beginning up to it, since a tokenizer may drop a space where decoding starts.
    """
    cuts, whole = [0], text(list(ids))
    for end in positions[1:]:
        same = takewhile(lambda pair: pair[0] == pair[1], zip(whole, text(list(ids[:end])), strict=False))
        cuts.append(len(list(same)))
    return tuple(whole[start:end] for start, end in pairwise([*cuts, len(whole)]))


def critical_trace(
    problem: Problem, trace: Trace, of: str, every: int, rolls: list[CriticalRoll], pieces: tuple[str, ...] = ()
) -> CriticalTrace:
    """Success rates by position, the largest fall between neighbouring positions, and with ``every=0`` the importance of the steps."""
    outcomes: dict[int, list[bool]] = defaultdict(list)
    for roll in rolls:
        outcomes[roll.position].append(roll.correct)
    points = [
        CriticalPoint(position=position, rolls=len(own), right=sum(own), rate=wilson(sum(own), len(own)))
        for position, own in sorted(outcomes.items())
    ]
    falls = [(before.rate.value - after.rate.value, after.position) for before, after in pairwise(points)]
    fall, position = max(falls, key=lambda pair: pair[0], default=(0.0, None))
    ends = trace.step_ends
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
        steps=() if every else step_importance(trace, rolls),
    )


def step_importance(trace: Trace, rolls: list[CriticalRoll]) -> tuple[StepImportance, ...]:
    """How much each step but the last changes which answers follow.

    Args:
        rolls: continuations from the start of the answer and from the end of each step but the last, with their answers.
    """
    answers: dict[int, list[str]] = defaultdict(list)
    for roll in rolls:
        answers[roll.position].append(roll.answer or "")
    pairs = list(pairwise((0, *trace.step_ends)))
    found = [answer_divergence(answers[start], answers[end], seed) for seed, (start, end) in enumerate(pairs)]
    adjusted = holm({number: p for number, (_, p) in enumerate(found)})
    return tuple(
        StepImportance(
            step=number + 1,
            start=start,
            end=end,
            text=trace.steps[number].text,
            kl=kl,
            p=p,
            p_holm=adjusted[number],
            before=dict(Counter(answers[start]).most_common()),
            after=dict(Counter(answers[end]).most_common()),
        )
        for number, ((start, end), (kl, p)) in enumerate(zip(pairs, found, strict=True))
    )


def answer_divergence(before: Sequence[str], after: Sequence[str], seed: int, draws: int = 10_000) -> tuple[float, float]:
    """KL(after || before) of two samples of answers in nats, with half a count added to each answer, and its permutation p.

    The p-value is the share of random divisions of all answers into samples of these sizes whose divergence is at least as large, the seen
    one included. So answers that are all different, or few continuations, cannot make a step look important.
    """
    names, codes = np.unique([*before, *after], return_inverse=True)
    mixed = np.random.default_rng(seed).permuted(np.tile(codes, (draws, 1)), axis=1)

    def kl(divided: Int[np.ndarray, "divisions answers"]) -> Float[np.ndarray, "divisions"]:
        parts = divided[:, : len(before)], divided[:, len(before) :]
        q, p = (np.stack([(part == name).sum(1) for name in range(len(names))], axis=1) + 0.5 for part in parts)
        q, p = q / q.sum(1, keepdims=True), p / p.sum(1, keepdims=True)
        return (p * np.log(p / q)).sum(1)

    seen = float(kl(codes[None])[0])
    return seen, float((1 + (kl(mixed) >= seen - 1e-12).sum()) / (1 + draws))
