"""Critical tokens of a fake run's answers: how many continuations are right at each point is given, the rest follows from the answer."""

from collections.abc import Sequence
from itertools import chain

from fake_run import tokens_of

from stir_core.evaluate.critical import critical_trace
from stir_core.findings import CriticalRoll, CriticalTrace
from stir_core.records import Problem, Trace
from stir_core.store.critical import CriticalFile, Of
from stir_core.store.runs import Run


def fake_critical(problem: Problem, trace: Trace, of: Of, rights: Sequence[int], *, rolls: int = 8, every: int = 8) -> CriticalTrace:
    """``rights``: right continuations of ``rolls`` at each point; points beyond them have none."""
    positions = range(0, len(trace.token_ids), every)
    counts = [*rights, *[0] * len(positions)]
    found = [
        CriticalRoll(position=position, rep=rep, correct=rep < right, finished=True, tokens=9)
        for position, right in zip(positions, counts, strict=False)
        for rep in range(rolls)
    ]
    words = list(chain.from_iterable(tokens_of(step.text)[0] for step in trace.steps))
    pieces = tuple("".join(words[position : position + every]) for position in positions)
    return critical_trace(problem, trace, of, every, found, pieces)


def make_fake_critical(run: Run, number: int, of: Of, rights: Sequence[int], *, rolls: int = 8, every: int = 8) -> CriticalTrace:
    """Write the summary for the run's answer to held-out problem ``number``."""
    problem, trace = run.problems("steered")[number], run.traces(of)[number]
    found = fake_critical(problem, trace, of, rights, rolls=rolls, every=every)
    CriticalFile(run, of, trace).write(found)
    return found
