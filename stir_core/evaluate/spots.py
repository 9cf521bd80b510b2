"""Recorded control points at which an action can be tried: held-out ones that retrieved it, and its own in its source rollouts."""

from collections.abc import Iterable, Mapping

from stir_core.errors import DataError
from stir_core.records import Entry, Rollout, Trace
from stir_core.responses import Spot
from stir_core.store.runs import Run


def held_out_spots(entry: Entry, traces: Iterable[Trace]) -> list[Spot]:
    """Held-out steps that retrieved the entry: those that committed it first, then by cosine.

    The tokens before a control point are read unsteered, as they were under ``ephemeral`` when they were recorded.
    """
    spots: list[Spot] = []
    for trace in traces:
        given: tuple[int, ...] = ()
        for step in trace.steps:
            seen = next((other for other in step.evidence.retrieved if other.entry_id == entry.id), None)
            if seen is not None:
                spot = Spot(
                    kind="held-out",
                    problem_id=trace.id,
                    m=step.evidence.m,
                    correct=trace.verdict.correct if trace.verdict else None,
                    prompt_ids=trace.prompt_ids,
                    given=given,
                    following=step.token_ids,
                    sim=seen.sim,
                    alpha=step.decision.alpha if step.decision.chosen == entry.id else None,
                )
                spots.append(spot)
            given += step.token_ids
    return sorted(spots, key=lambda spot: (spot.alpha is None, -(spot.sim or 0.0)))


def source_spots(entry: Entry, rollouts: Mapping[tuple[str, int], Rollout]) -> list[Spot]:
    """The rollouts that the action was mined from, at its own control point: wrong ones, which it is meant for, first."""
    spots: list[Spot] = []
    for k in (*entry.negatives, *entry.positives):
        rollout = rollouts.get((entry.problem_id, k))
        if rollout is None or len(rollout.boundaries) < entry.m:
            continue
        start, stop = (*rollout.boundaries, len(rollout.token_ids))[entry.m - 1 : entry.m + 1]
        spot = Spot(
            kind="rollout",
            problem_id=entry.problem_id,
            m=entry.m,
            k=k,
            correct=rollout.verdict.correct,
            prompt_ids=rollout.prompt_ids,
            given=rollout.token_ids[:start],
            following=rollout.token_ids[start:stop],
        )
        spots.append(spot)
    return spots


def action_named(run: Run, entry_id: str) -> Entry:
    """A corrective entry of a run.

    Raises:
        DataError: the run has no such entry, or it has no action.
    """
    entry = next((entry for entry in run.entries() if entry.id == entry_id), None)
    if entry is None or entry.action_row is None:
        problem = "is a null entry and has no action" if entry else f"is not an entry of {run.path}"
        raise DataError(f'"{entry_id}" {problem}: take one that `stir show {run.name} --all` lists')
    return entry


def entry_with_spots(run: Run, entry_id: str) -> tuple[Entry, list[Spot]]:
    """A corrective entry of a run, with every spot where it can be tried: held-out steps that retrieved it, then its own rollouts.

    Raises:
        DataError: the run has no such entry, or it has no action.
    """
    entry = action_named(run, entry_id)
    spots = held_out_spots(entry, run.traces()) if run.finished("steered") else []
    return entry, spots + source_spots(entry, {(rollout.problem_id, rollout.k): rollout for rollout in run.rollouts()})


def spot_named(spots: list[Spot], name: str | None, entry: Entry) -> Spot:
    """The spot of that name, or the first.

    Raises:
        DataError: no such spot; the message names some.
    """
    if not spots:
        raise DataError(f"{entry.id} was retrieved at no held-out step and its rollouts are not recorded: choose another action")
    if name is None:
        return spots[0]
    for spot in spots:
        if spot.name == name:
            return spot
    raise DataError(f'"{name}" is not a place for {entry.id}: take one such as {", ".join(spot.name for spot in spots[:4])}')
