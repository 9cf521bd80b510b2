"""The truth about an organism's answers: in which habit the writer is at each control point. Pure."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stir_core.organisms.planted import Organism
from stir_core.organisms.rungs import is_right, read_steps
from stir_core.records import Problem, StepTrace, Trace
from stir_core.tasks.chain import Chain, chain_of


class KnownPoint(NamedTuple):
    """One control point at which the gate could steer, with the truth about the writer there."""

    problem_id: str
    step: StepTrace
    wrong: bool
    """Whether the writer is in a habit that is wrong for the problem, read from the step before the control point."""
    erred: bool
    """Whether the step after it makes an error of its own, or is not in the language."""


def chains_of(problems: Iterable[Problem]) -> dict[str, Chain]:
    """Contents by problem id."""
    return {problem.id: chain_of(problem.question) for problem in problems}


def known_points(traces: Iterable[Trace], chains: Mapping[str, Chain], organism: Organism, control_points: int) -> list[KnownPoint]:
    """Control points that the gate may steer, with the truth; those after a step outside the language are left out.

    So are answers to problems without a chain: a calibration with a larger ``n`` leaves its answers in the folder.
    """
    points: list[KnownPoint] = []
    for trace in traces:
        problem_id = trace.id.partition("#")[0]
        if (chain := chains.get(problem_id)) is None:
            continue
        written = read_steps(chain, [step.text for step in trace.steps])
        for step in trace.steps:
            before, after = written[step.m - 1] if step.m else None, written[step.m]
            if before is not None and step.m < control_points and step.m < len(chain.numbers):
                wrong = not is_right(organism.rung, before.habit, chain.kind)
                points.append(KnownPoint(problem_id, step, wrong, erred=after is None or not after.right))
    return points
