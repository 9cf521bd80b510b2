"""Compare a run on an organism with what is planted there. Pure: records and arrays in, figures out; no model is run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stir_core.evaluate.effects import area_under_roc
from stir_core.findings import GateCounts
from stir_core.organisms.planted import Organism
from stir_core.organisms.rungs import is_right, read_steps
from stir_core.records import Entry, Problem, StepTrace, Trace
from stir_core.tasks.chain import Chain, chain_of


class KnownPoint(NamedTuple):
    """One control point at which the gate could steer, with the truth about the writer there."""

    step: StepTrace
    wrong: bool
    """Whether the writer is in a habit that is wrong for the problem, read from the step before the control point."""


def chains_of(problems: Iterable[Problem]) -> dict[str, Chain]:
    """Contents by problem id."""
    return {problem.id: chain_of(problem.question) for problem in problems}


def known_points(traces: Iterable[Trace], chains: Mapping[str, Chain], organism: Organism, control_points: int) -> list[KnownPoint]:
    """Control points that the gate may steer, with the truth; those after a step outside the language are left out."""
    points: list[KnownPoint] = []
    for trace in traces:
        chain = chains[trace.id.partition("#")[0]]
        written = read_steps(chain, [step.text for step in trace.steps])
        for step in trace.steps:
            before = written[step.m - 1] if step.m else None
            if before is not None and step.m < control_points and step.m < len(chain.numbers):
                points.append(KnownPoint(step, not is_right(organism.rung, before.habit, chain.kind)))
    return points


def gate_counts(points: Sequence[KnownPoint]) -> tuple[GateCounts, ...]:
    """Commits by control point, where the writer is in the wrong habit and where it is in the right one."""
    counts: list[GateCounts] = []
    for m in sorted({point.step.m for point in points}):
        own = [(point.wrong, point.step.decision.chosen is not None) for point in points if point.step.m == m]
        wrong, right = ([fired for is_wrong, fired in own if is_wrong == side] for side in (True, False))
        counts.append(GateCounts(m=m, wrong=len(wrong), fired_wrong=sum(wrong), right=len(right), fired_right=sum(right)))
    return tuple(counts)


def margin(step: StepTrace) -> float | None:
    """The gate's best score minus that of null; ``None`` where nothing was scored."""
    scores = [scored.score for scored in step.decision.scored if scored.score is not None]
    return max(scores) - step.decision.score_null if scores and step.decision.score_null is not None else None


def gate_auc(points: Sequence[KnownPoint]) -> float | None:
    """Area under the ROC curve of the gate's margin for "the writer is in the wrong habit"; nothing scored counts as the lowest margin."""
    seen = np.array([-np.inf if (value := margin(point.step)) is None else value for point in points])
    wrong = np.array([point.wrong for point in points], bool)
    return area_under_roc(seen[wrong], seen[~wrong])


def planted_cosines(entries: Sequence[Entry], actions: np.ndarray, chains: Mapping[str, Chain], organism: Organism) -> dict[str, float]:
    """Cosine of each action with the planted correction of its problem's kind, by corrective entry; empty where no habit decides."""
    cosines: dict[str, float] = {}
    for entry, action in zip(entries, actions, strict=True):
        planted = organism.planted.correction(organism.rung, chains[entry.problem_id].kind)[entry.layer].numpy()
        if entry.kind == "corrective" and planted.any():
            cosines[entry.id] = float(action @ planted / (np.linalg.norm(action) * np.linalg.norm(planted)))
    return cosines
