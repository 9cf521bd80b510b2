"""Changes to a recorded answer's decisions, and their strength: plain checks, no model and no tensors."""

from collections.abc import Mapping

from stir_core.config import GateConfig
from stir_core.errors import DataError
from stir_core.intervene.gate import dose
from stir_core.records import Entry, StepTrace, Trace
from stir_core.requests import DENY, Change


def step_at(trace: Trace, m: int) -> int:
    """Index of the trace's step that begins at control point ``m``.

    Raises:
        DataError: the answer has no such step.
    """
    for place, step in enumerate(trace.steps):
        if step.evidence.m == m:
            return place
    last = trace.steps[-1].evidence.m if trace.steps else None
    raise DataError(
        f"the answer to {trace.id} has no step after control point {m}: "
        + (f"take 0 to {last}" if trace.steps else "it is empty, choose another answer")
    )


def was_forced(step: StepTrace) -> bool:
    """True if the step's decision was forced on the gate."""
    return step.decision.reason.kind == "forced"


def own_alpha(step: StepTrace, entry_id: str, gate: GateConfig) -> float | None:
    """Multiple of this entry's action that the gate would inject if it chose it; ``None`` if it measured none above 0."""
    if step.decision.chosen == entry_id and not was_forced(step):
        return step.decision.alpha
    alpha = next((dose(scored, gate) for scored in step.decision.scored if scored.entry_id == entry_id), None)
    return alpha if alpha is not None and alpha > 0 else None


def alpha_of(change: Change, step: StepTrace, entries: Mapping[str, Entry], gate: GateConfig) -> float:
    """The multiple of the action that a change injects.

    Raises:
        DataError: the entry is not in the library, does not belong to this control point, has no action, or has no strength yet.
    """
    entry = entries.get(change.to)
    if entry is None:
        raise DataError(f"there is no entry {change.to!r} in the library: take one that `stir show` lists")
    if entry.m != change.m:
        raise DataError(
            f"entry {entry.id} belongs to control point {entry.m}, and is never retrieved at {change.m}: take one of {change.m}"
        )
    if entry.kind == "null":
        raise DataError(f'entry {entry.id} is a null entry and has no action: take "{DENY}", or its corrective partner')
    alpha = change.alpha if change.alpha is not None else own_alpha(step, entry.id, gate)
    if alpha is None:
        raise DataError(f"the gate measured no strength above 0 for {entry.id} at control point {change.m}: give one (alpha)")
    return alpha
