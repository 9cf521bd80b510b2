"""The gate: a pure decision from measured evidence. The same function decides during decoding and decides a recorded trace again.

It uses no model, and random numbers only from named streams.
"""

from stir_core.config import GateConfig
from stir_core.records import Decision, Phase, Reason, ReasonKind, Retrieved, Scored, StepEvidence
from stir_core.seeding import generator_for
from stir_core.tasks.thinking import in_phase

TIE = 1e-12
"""Scores closer than this tie, and null wins a tie."""


def steerable(m: int, gate: GateConfig, control_points: int, phase: Phase | None = None) -> Reason | None:
    """``None`` if the step after control point ``m``, in this part of the answer, may be steered, else the reason why not."""
    if gate.variant == "no_memory":
        return Reason(kind="vanilla")
    if m == 0:
        return Reason(kind="start")
    low, high = gate.min_tool_m or 1, min(gate.max_tool_m or control_points - 1, control_points - 1)
    if m < low:
        return Reason(kind="before_window", value=m, limit=low)
    if m > high:
        return Reason(kind="after_window", value=m, limit=high)
    return None if in_phase(phase, gate.phase) else Reason(kind="in_thinking" if phase == "thinking" else "in_final")


def shortlist(retrieved: tuple[Retrieved, ...], gate: GateConfig) -> tuple[Retrieved, ...]:
    """The corrective entries worth a preview: ordered by (value, cosine, quality), best first, at most ``candidates``."""
    corrective = [entry for entry in retrieved if entry.kind == "corrective"]
    corrective.sort(key=lambda entry: (-entry.value, -entry.sim, -entry.quality))
    return tuple(corrective[: gate.candidates])


def null_value(retrieved: tuple[Retrieved, ...]) -> float:
    """``A_null``: the best value among the retrieved null entries, at least 0."""
    return max([0.0, *(entry.value for entry in retrieved if entry.kind == "null")])


def preview_scale(entry: Retrieved, gate: GateConfig) -> float:
    """Multiple of the action that a preview injects."""
    return 1.0 if gate.preview_scale == "unit" else gate.k_scale * gate.beta * entry.value


def dose(scored: Scored, gate: GateConfig) -> float | None:
    """Multiple of the action that is injected if this candidate is committed; ``None`` if its preview was not measured."""
    if gate.preview_scale == "committed":
        return gate.k_scale * gate.beta * scored.value
    return gate.k_scale * scored.score if scored.score is not None else None


def decide(evidence: StepEvidence, gate: GateConfig, *, seed: int = 0, name: str = "") -> Decision:
    """Commit the best candidate, or null with the reason.

    ``score_i = beta * A_i + rho * (P_i - P_null)`` is compared with ``score_null = beta * A_null``; the best candidate is committed only
    if its score is strictly greater (within 1e-12, null wins) and at least ``tau_null``. Source: arXiv 2602.04925, Stage III.

    Args:
        seed, name: run seed and answer id, which name the random stream of the ``random_choice`` variant.
    """
    if evidence.not_retrieved is not None or not evidence.retrieved:
        return Decision(chosen=None, alpha=0.0, score_null=None, reason=evidence.not_retrieved or Reason(kind="nothing_retrieved"))
    score_null = gate.beta * null_value(evidence.retrieved)
    scored = tuple(_score(entry, evidence, gate) for entry in shortlist(evidence.retrieved, gate))
    usable = [candidate for candidate in scored if candidate.score is not None]

    def null(kind: ReasonKind, limit: float | None = None) -> Decision:
        about = {"entry_id": best.entry_id, "value": best.score, "limit": limit} if best else {}
        return Decision(chosen=None, alpha=0.0, score_null=score_null, scored=scored, reason=Reason(kind=kind, **about))

    best = None
    if not scored:
        return null("no_corrective")
    if not usable:
        return null("not_previewed")
    if gate.variant == "random_choice":
        best = usable[int(generator_for(seed, "random_choice", name, evidence.m).integers(len(usable)))]
    else:
        best = max(usable, key=lambda candidate: candidate.score or 0.0)  # max keeps the first of equals: the best value
    score = best.score if best.score is not None else 0.0
    if score <= score_null + TIE:
        return null("not_above_null", score_null)
    if score < gate.tau_null:
        return null("below_tau_null", gate.tau_null)
    alpha = dose(best, gate)
    if alpha is None or alpha <= 0:
        return null("no_strength")
    return Decision(
        chosen=best.entry_id,
        alpha=alpha,
        score_null=score_null,
        scored=scored,
        reason=Reason(kind="above_null", entry_id=best.entry_id, value=score, limit=score_null),
    )


def _score(entry: Retrieved, evidence: StepEvidence, gate: GateConfig) -> Scored:
    if gate.variant == "no_probing":
        return Scored(entry_id=entry.entry_id, value=entry.value, gain=None, score=gate.beta * entry.value)
    if entry.preview_logprob is None or evidence.null_logprob is None:
        return Scored(entry_id=entry.entry_id, value=entry.value, gain=None, score=None)
    gain = entry.preview_logprob - evidence.null_logprob
    return Scored(entry_id=entry.entry_id, value=entry.value, gain=gain, score=gate.beta * entry.value + gate.rho * gain)
