"""The gate: a pure decision from measured evidence. The same function decides during decoding and decides a recorded trace again.

It uses no model, and random numbers only from named streams.

A preview can be left out where it cannot matter (:func:`contenders`). Log-probabilities are at most 0, so of a preview of at most ``n``
tokens whose first ones sum to ``S`` the mean is at most ``S / n``, however it goes on and wherever it ends. With ``rho >= 0`` the same
mean, put through the same operations as a measured one, bounds the score: each is monotone in floating point, too, so the bound holds to
the last bit, and what is decided without the rest of a preview is what would have been decided with it.
"""

from collections.abc import Sequence
from math import inf

from stir_core.config import GateConfig
from stir_core.errors import DataError
from stir_core.policies import Policies, candidate_features
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


def injectable(scored: Sequence[Scored], gate: GateConfig) -> dict[str, float]:
    """Multiple of the action that would be injected, by candidate, of those that can be committed at all; in preview order."""
    return {each.entry_id: multiple for each in scored if (multiple := dose(each, gate)) and multiple > 0}


def needs_all(gate: GateConfig) -> str | None:
    """Why this gate's decisions depend on every preview, so that none can be left out, in one line; ``None``: they do not."""
    if gate.variant == "random_choice":
        return "the variant random_choice draws among all candidates that were previewed"
    if gate.policy not in ("value", "probe"):
        return f"the learned gate {gate.policy} sees the preview of every candidate"
    return None if gate.rho >= 0 else "rho is below 0, so a preview may raise a score by any amount"


def contenders(evidence: StepEvidence, gate: GateConfig) -> tuple[Retrieved, ...]:
    """The candidates that were not previewed to their end and may yet win, the highest possible score first (ties: preview order).

    The others cannot: not above null, below ``tau_null``, or behind a candidate whose score is known. Null's own preview is decoded to its
    end wherever any is; until then ``null_at_least`` stands for it.
    """
    scored = tuple(_score(entry, evidence, gate) for entry in shortlist(evidence.retrieved, gate))
    beaten = _beaten(scored, gate.beta * null_value(evidence.retrieved), gate)
    left = {each.entry_id: inf if each.at_most is None else each.at_most for each in scored if each.entry_id not in beaten}
    open_ = [entry for entry in shortlist(evidence.retrieved, gate) if entry.preview_at_most is not None and entry.entry_id in left]
    return tuple(sorted(open_, key=lambda entry: -left[entry.entry_id]))


def _beaten(scored: Sequence[Scored], score_null: float, gate: GateConfig) -> dict[str, float]:
    """What each candidate without a score falls short of, of those whose largest possible score cannot win."""
    limits: dict[str, float] = {}
    known = [each for each in scored if each.score is not None]
    best = _best(known) if known else None
    before = best is None  # ``best`` is ahead of the candidates behind it at an equal score, since the first of equals is chosen
    for each in scored:
        before = before or each is best
        if each.score is not None or each.at_most is None:
            continue
        if each.at_most <= score_null + TIE:
            limits[each.entry_id] = score_null
        elif each.at_most < gate.tau_null:
            limits[each.entry_id] = gate.tau_null
        elif best is not None and best.score is not None and (each.at_most < best.score or (before and each.at_most == best.score)):
            limits[each.entry_id] = best.score
    return limits


def _best(usable: Sequence[Scored]) -> Scored:
    return max(usable, key=lambda candidate: candidate.score or 0.0)  # max keeps the first of equals: the best value


def decide(evidence: StepEvidence, gate: GateConfig, *, seed: int = 0, name: str = "", policies: Policies | None = None) -> Decision:
    """Commit the best candidate, or null with the reason.

    ``score_i = beta * A_i + rho * (P_i - P_null)`` is compared with ``score_null = beta * A_null``; the best candidate is committed only
    if its score is strictly greater (within 1e-12, null wins) and at least ``tau_null``. Source: arXiv 2602.04925, Stage III.
    A learned gate (``gate.policy``) chooses among the same candidates at the same strengths.

    Args:
        seed, name: run seed and answer id, which name the random stream of the ``random_choice`` variant.
        policies: the run's learned gates.

    Raises:
        DataError: previews that could win were not decoded to their end; or the gate is a learned one, and the evidence or the policies do
            not hold what it needs.
    """
    if (missing := _unseen(evidence, gate)) is not None:
        raise DataError(missing)
    valued = _by_value(evidence, gate, seed=seed, name=name)
    if gate.policy == "value" or not injectable(valued.scored, gate):
        return valued
    if (missing := lacks(evidence, gate, policies)) is not None:
        raise DataError(missing)
    assert policies is not None  # else something is missing
    return _learned(evidence, gate, valued, policies)


def lacks(evidence: StepEvidence, gate: GateConfig, policies: Policies | None) -> str | None:
    """What a gate needs to decide on this evidence and does not have, in one line; ``None``: nothing."""
    if (missing := _unseen(evidence, gate)) is not None:
        return missing
    if gate.policy == "value" or not evidence.retrieved:
        return None
    if policies is None or gate.policy not in policies.weights:
        return f'gate.policy is "{gate.policy}", and no such gate was learned for this library: make it with `stir policy RUN`'
    if evidence.features is None:
        return f"the state was recorded without the features that {gate.policy} sees: record the answer again"
    return None


def _unseen(evidence: StepEvidence, gate: GateConfig) -> str | None:
    """The previews that were stopped because they could not win, and that this gate wants, in one line; ``None``: none."""
    if gate.variant == "no_probing":
        return None
    short = shortlist(evidence.retrieved, gate)
    reason = needs_all(gate) or "may win"
    wanted = [entry for entry in short if entry.preview_at_most is not None] if needs_all(gate) else contenders(evidence, gate)
    if not wanted:
        return None
    names = ", ".join(entry.entry_id for entry in short if entry in wanted)
    return f'{names} was not previewed to its end, and {reason}: record the answer with gate.previews = "all"'


def _learned(evidence: StepEvidence, gate: GateConfig, valued: Decision, policies: Policies) -> Decision:
    """The decision of a learned gate; ``valued`` is that of the published one."""
    weights, features = policies.weights[gate.policy], evidence.features or ()
    scored = _policy_scored(evidence, gate, valued, policies)

    def null(kind: ReasonKind, **about: str | float) -> Decision:
        reason = Reason.model_validate({"kind": kind, **about})
        return Decision(chosen=None, alpha=0.0, score_null=valued.score_null, scored=scored, reason=reason)

    if weights.threshold is None:
        return null("policy_abstains")
    if gate.policy == "probe":
        log_odds = weights.score(features)
        return valued if log_odds < weights.threshold else null("ends_right", value=log_odds, limit=weights.threshold)
    doses = injectable(scored, gate)
    score, best = max(((each.policy_score or 0.0, each) for each in scored if each.entry_id in doses), key=lambda pair: pair[0])
    about = {"entry_id": best.entry_id, "value": score, "limit": weights.threshold}
    if score <= weights.threshold:
        return null("policy_below", **about)
    reason = Reason.model_validate({"kind": "policy_above", **about})
    return Decision(chosen=best.entry_id, alpha=doses[best.entry_id], score_null=valued.score_null, scored=scored, reason=reason)


def _policy_scored(evidence: StepEvidence, gate: GateConfig, valued: Decision, policies: Policies) -> tuple[Scored, ...]:
    if gate.policy == "probe":
        return valued.scored
    weights, features, score_null = policies.weights[gate.policy], evidence.features or (), valued.score_null or 0.0
    return tuple(
        each.replaced(policy_score=weights.score(features, candidate_features(each, score_null, evidence.retrieved)))
        for each in valued.scored
    )


def _by_value(evidence: StepEvidence, gate: GateConfig, *, seed: int, name: str) -> Decision:
    """The decision of the published gate."""
    if evidence.not_retrieved is not None or not evidence.retrieved:
        return Decision(chosen=None, alpha=0.0, score_null=None, reason=evidence.not_retrieved or Reason(kind="nothing_retrieved"))
    score_null = gate.beta * null_value(evidence.retrieved)
    scored = tuple(_score(entry, evidence, gate) for entry in shortlist(evidence.retrieved, gate))
    beaten = _beaten(scored, score_null, gate)
    scored = tuple(each.replaced(against=beaten[each.entry_id]) if each.entry_id in beaten else each for each in scored)
    usable = [candidate for candidate in scored if candidate.score is not None]

    def null(kind: ReasonKind, limit: float | None = None) -> Decision:
        first = max((each for each in scored if each.against is not None), key=lambda each: each.at_most or 0.0, default=None)
        if first is not None and first.at_most is not None and (best is None or best.score is None or first.at_most > best.score):
            short = Reason(kind="cannot_win", entry_id=first.entry_id, value=first.at_most, limit=first.against)
            return Decision(chosen=None, alpha=0.0, score_null=score_null, scored=scored, reason=short)
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
        best = _best(usable)
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
    null = evidence.null_logprob if evidence.null_logprob is not None else evidence.null_at_least
    if entry.preview_at_most is not None and null is not None:
        most = gate.beta * entry.value + gate.rho * (entry.preview_at_most - null)
        return Scored(entry_id=entry.entry_id, value=entry.value, gain=None, score=None, at_most=most)
    if entry.preview_logprob is None or evidence.null_logprob is None:
        return Scored(entry_id=entry.entry_id, value=entry.value, gain=None, score=None)
    gain = entry.preview_logprob - evidence.null_logprob
    return Scored(entry_id=entry.entry_id, value=entry.value, gain=gain, score=gate.beta * entry.value + gate.rho * gain)
