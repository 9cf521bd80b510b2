"""What if: continue a recorded answer from one of its control points or tokens with the decision or the token there changed.

The tokens before the control point are given and never drawn again, so a branch shares them with its origin exactly, sampled or not.
Every step draws from a named stream of its own (problem, step, control point), so branch and origin differ only by the change; without a
change the branch is the recorded answer. A change with a seed draws from streams of the seed's name instead, the same each time.

A step in which a token is changed begins with its recorded decision and the tokens before, which are taken one by one instead of drawn.

Keys and values of the given tokens are those of the recording. Under ``ephemeral`` they are the unsteered model's. Under ``persistent`` the
impulses of earlier steps stay in the cache, so the given tokens are read with these impulses at their control points. Both are
exact up to rounding: one pass over many tokens replaces many passes over one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from stir_core.config import DecodeConfig, GateConfig
from stir_core.errors import DataError, SteeringError
from stir_core.intervene.changes import alpha_of, kept_tokens, roll_name, step_at, was_forced
from stir_core.intervene.controller import steer
from stir_core.intervene.jobs import NULL, Force, Forced, Job, Settings, recorded_decision
from stir_core.intervene.memory import Memory, action_of
from stir_core.models.loading import LoadedModel
from stir_core.records import Decision, Event, StepEvent, StepTrace, Trace, TraceEvent
from stir_core.requests import DENY, KEEP, Change


def branch(
    model: LoadedModel,
    trace: Trace,
    changes: Sequence[Change],
    gate: GateConfig,
    memory: Memory | None,
    settings: Settings,
    seeded: DecodeConfig | None = None,
) -> Iterator[Event]:
    """Decode one branch for each change, side by side; an event's ``row`` is the index of its change.

    Only new steps give events. A finished branch is a whole :class:`Trace`: the given steps as recorded, then the new ones (so ``given`` is
    0); its costs (probe and forward tokens, FLOPs) are those of the branch only. A forced step shows the evidence that was recorded there,
    since it was measured in the same context.

    Args:
        trace: recorded with this model, library, ``gate`` and ``settings`` (or itself a branch of such a trace).
        seeded: how a change with a seed is decoded; ``None``: as ``settings`` say.

    Raises:
        DataError: no such control point or token, an entry that cannot be injected there, or no token left to decode.
        SteeringError: earlier impulses cannot be read again at their positions (``compat`` with ``persistent``).
    """
    past = _past(trace, gate, memory, settings)  # one object for all, so that they share what is read
    for change in changes:
        if change.token is not None and change.token >= len(model.tokenizer):
            raise DataError(f"token id {change.token} is not in the vocabulary: take 0 to {len(model.tokenizer) - 1}")
    jobs = [replace(branch_job(trace, change, gate, memory, settings, seeded), past=past) for change in changes]
    for event in steer(model, jobs, settings):
        yield _whole(event, trace, changes[event.row])


def branch_job(
    trace: Trace, change: Change, gate: GateConfig, memory: Memory | None, settings: Settings, seeded: DecodeConfig | None = None
) -> Job:
    """The job that decodes one branch, without the given steps; see :func:`branch`, whose errors it raises."""
    place, past = step_at(trace, change.m), _past(trace, gate, memory, settings)
    kept, most = kept_tokens(trace, change), settings.decode.max_new_tokens
    given = tuple(token for step in trace.steps[:place] for token in step.token_ids)
    if kept >= most:
        raise DataError(f"{kept} tokens are kept, and max_new_tokens is {most}: allow more")
    if settings.compat and past is not None and any(past(step.evidence.m) is not NULL for step in trace.steps[:place]):
        raise SteeringError("compat with persistent impulses has no exact branches: use persistence ephemeral, or a run without compat")
    return Job(
        trace.id if change.seed is None else roll_name(trace.id, kept, change.seed),
        list(trace.prompt_ids),
        gate,
        memory,
        given,
        _force(trace, change, gate, memory, settings),
        past,
        None if change.seed is None else seeded,
        begin=(*trace.token_ids[len(given) : kept], *(() if change.token is None else (change.token,))),
    )


def _force(trace: Trace, change: Change, gate: GateConfig, memory: Memory | None, settings: Settings) -> Force:
    """The decisions forced from the control point on. A change that keeps a decision keeps later forced ones, too."""
    steps = {step.evidence.m: step for step in trace.steps}
    here = steps[change.m]
    if change.to == KEEP:
        first = recorded_decision(here, gate, memory, settings.seed) if _repeated(change, here) else None
    elif change.to == DENY:
        first = NULL
    else:
        if memory is None:
            raise DataError(f"the run has an empty library, so there is no {change.to} to force: open a run that has actions")
        alpha = alpha_of(change, here, memory.by_id, gate)
        first = Forced(change.to, memory.by_id[change.to].layer, action_of(memory, gate, change.to, settings.seed), alpha)

    def force(m: int) -> Forced | None:
        if m == change.m:
            return first
        if change.then == "null":
            return NULL
        kept = change.to == KEEP and m in steps and was_forced(steps[m])
        return recorded_decision(steps[m], gate, memory, settings.seed) if kept else None

    return force


def _repeated(change: Change, here: StepTrace) -> bool:
    """True if a kept decision is taken from the recording: where the gate would not see what it saw, or did not decide."""
    return was_forced(here) or change.position is not None or change.seed is not None


def _past(trace: Trace, gate: GateConfig, memory: Memory | None, settings: Settings) -> Force | None:
    """The recorded impulses by control point; ``None`` if none outlives its step."""
    steps = {step.evidence.m: step for step in trace.steps}
    return (lambda m: recorded_decision(steps[m], gate, memory, settings.seed)) if gate.persistence == "persistent" else None


def _whole(event: Event, trace: Trace, change: Change) -> Event:
    """The event with the recorded evidence at the change, and a finished branch with the given steps before the new ones."""
    place = step_at(trace, change.m)
    here = trace.steps[place]
    if isinstance(event, StepEvent) and event.evidence.m == change.m and event.decision.reason.kind == "forced":
        return event.replaced(evidence=here.evidence, decision=_decided(change, event.decision, here.decision))
    if not isinstance(event, TraceEvent):
        return event
    first, *later = event.trace.steps
    if was_forced(first):
        first = first.replaced(evidence=here.evidence, decision=_decided(change, first.decision, here.decision))
    whole = event.trace.replaced(steps=(*trace.steps[:place], first, *later), given=0)
    return event.replaced(trace=whole)


def _decided(change: Change, forced: Decision, recorded: Decision) -> Decision:
    """The recorded decision where it is kept, else the forced one with the scores that were recorded there."""
    if change.to == KEEP:
        return recorded
    return forced.replaced(score_null=recorded.score_null, scored=recorded.scored)
