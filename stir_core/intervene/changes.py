"""Changes to a recorded answer's decisions and tokens, and their strength: plain checks, no model and no tensors."""

from bisect import bisect
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from stir_core.config import DecodeConfig, GateConfig, RunConfig, with_changes
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


def change_at(trace: Trace, position: int, **fields: Any) -> Change:
    """A change at a token of the answer, by its index; the control point is that of its step.

    Args:
        fields: of :class:`Change`, such as ``token``.

    Raises:
        DataError: the answer has no such token.
    """
    if not 0 <= position < len(trace.token_ids):
        raise DataError(f"the answer to {trace.id} has no token {position + 1}: take 1 to {len(trace.token_ids)}")
    return Change(m=step_holding(trace, position).m, position=position, **fields)


def step_holding(trace: Trace, position: int) -> StepTrace:
    """The step that has the answer's token of this index."""
    ends = list(accumulate(len(step.token_ids) for step in trace.steps))
    return trace.steps[bisect(ends, position)]


def kept_tokens(trace: Trace, change: Change) -> int:
    """Number of the answer's tokens before what is changed.

    Raises:
        DataError: no such control point, or the token is not in the step after it.
    """
    place = step_at(trace, change.m)
    start = sum(len(step.token_ids) for step in trace.steps[:place])
    if change.position is None:
        if change.token is not None:
            raise DataError(f"token id {change.token} has no place: give the position of the token that it replaces")
        return start
    end = start + len(trace.steps[place].token_ids)
    if not start <= change.position < end:
        raise DataError(
            f"token {change.position + 1} is not in the step after control point {change.m}, which has tokens {start + 1} to {end}"
        )
    return change.position


def roll_name(answer: str, position: int, seed: int) -> str:
    """The name of an answer's continuation, which names its random streams.

    Args:
        answer: id of the answer.
        position: number of its tokens that are kept.
    """
    return f"{answer}^{position}~{seed}"


def sampled(decode: DecodeConfig, config: RunConfig) -> DecodeConfig:
    """The settings of a continuation that has a seed: sampled as the run's rollouts are."""
    return with_changes(decode, temperature=config.rollouts.temperature, top_p=config.rollouts.top_p)


def decode_after(changes: Iterable[Change], decode: DecodeConfig, config: RunConfig) -> DecodeConfig:
    """The settings that a branch was decoded with, for branches of it; ``decode``: those of the recorded answer."""
    return sampled(decode, config) if any(change.seed is not None for change in changes) else decode


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
