"""Decide a recorded step again under another gate, without a model, as far as the recorded evidence allows.

Pure, like the gate itself. If the evidence is not sufficient, the result names what is missing; nothing is guessed.
"""

from collections.abc import Sequence
from math import isclose
from statistics import fmean
from typing import Any, Literal, NamedTuple

from stir_core.config import GateConfig, with_changes
from stir_core.intervene.gate import decide, lacks, preview_scale, shortlist
from stir_core.policies import Policies
from stir_core.records import Decision, MarginThreshold, Reason, StepEvidence, StepTrace, Trace

ANSWERABLE: dict[str, Literal["decision", "strength", "less", "model"]] = {
    "variant": "model",
    "rule": "model",
    "policy": "decision",
    "k_retrieve": "less",
    "search": "model",
    "candidates": "less",
    "probe_tokens": "less",
    "previews": "decision",
    "beta": "strength",
    "rho": "decision",
    "k_scale": "strength",
    "tau_null": "decision",
    "min_sim": "decision",
    "min_entries": "decision",
    "min_tool_m": "model",
    "max_tool_m": "model",
    "phase": "model",
    "preview_scale": "less",
    "persistence": "model",
    "noise": "model",
}
"""How far a recording answers for another value of each gate parameter.

- ``decision``: always, except where a threshold prevented the measurement, since the parameter only enters the decision.
- ``strength``: as ``decision`` if previews run at scale 1; else the parameter enters their strength, too.
- ``less``: for values that need no more than was measured.
- ``model``: never; a model is needed. But ``rule = "calibrated"`` is answered for a recording under the published rule where its library
  has one layer at the control point, all entries there were retrieved or it abstains, and :func:`decide_again` is given ``margins``.

A recording of ``gate.previews = "needed"`` holds only the previews that its own gate needed. For the others it knows the most that they can
score, and it answers where that does not win under the other gate either; else it says which preview is missing.
"""


_BARE: dict[str, Any] = {"retrieved": (), "null_logprob": None, "null_at_least": None, "null_preview_ids": (), "features": None}
"""What is left of the evidence where nothing is retrieved."""


class Again(NamedTuple):
    """A step under another gate."""

    evidence: StepEvidence
    """The part of the recorded evidence that the other gate would have seen."""
    decision: Decision | None
    """``None``: the recording does not answer."""
    missing: str | None
    """The measurement that the recording lacks, and that needs a model."""


def gate_was_asked(step: StepTrace) -> bool:
    """False if no thresholds and weights could have steered the step: control point 0, no entries there, a forced step, ..."""
    evidence = step.evidence
    if evidence.not_retrieved is None:
        return not _forced(step)
    return evidence.n_entries > 0 and evidence.not_retrieved.kind in ("below_min_sim", "too_few_entries")


def _forced(step: StepTrace) -> bool:
    """True if the decision was forced; another gate would have been overruled in the same way."""
    return step.decision.reason.kind in ("forced", "inside_step")


def decide_again(
    step: StepTrace,
    recorded: GateConfig,
    gate: GateConfig,
    *,
    seed: int = 0,
    name: str = "",
    policies: Policies | None = None,
    margins: Sequence[MarginThreshold] | None = None,
) -> Again:
    """Decide a recorded step under another gate.

    The state at the step is taken as recorded. After a step where the other gate decides differently, the answer would have continued
    differently, so later decisions hold for the recorded text only.

    Args:
        recorded: the gate that the step was recorded with.
        seed, name, policies: see :func:`stir_core.intervene.gate.decide`.
        margins: the run's (``run.margins()``), for a gate with ``rule = "calibrated"``.
    """
    evidence = step.evidence
    about = {"seed": seed, "name": name, "policies": policies}
    if _forced(step):
        return Again(evidence, step.decision, None)
    if margins is not None and (recorded.rule, gate.rule) == ("score", "calibrated") and evidence.retrieved:
        return _told_again(step, with_changes(recorded, rule="calibrated"), gate, margins, about)
    others = [key for key, reach in ANSWERABLE.items() if reach == "model" and getattr(gate, key) != getattr(recorded, key)]
    if others:
        return Again(evidence, None, f"{', '.join(others)} changes what is measured")
    if evidence.not_retrieved is not None:
        missing = _never_looked(step, recorded, gate)
        return Again(evidence, None if missing else decide(evidence, gate, **about), missing)
    blocked = _blocked(evidence, gate)
    if blocked is not None:
        evidence = evidence.replaced(**_BARE, not_retrieved=blocked)
        return Again(evidence, decide(evidence, gate, **about), None)
    if gate.k_retrieve < len(evidence.retrieved):
        evidence = evidence.replaced(retrieved=evidence.retrieved[: gate.k_retrieve])
    missing = (
        _not_retrieved(evidence, recorded, gate)
        or _not_previewed(step.evidence, evidence, recorded, gate)
        or lacks(evidence, gate, policies)
    )
    return Again(evidence, None if missing else decide(evidence, gate, **about), missing)


def redecide(trace: Trace, recorded: GateConfig, gate: GateConfig, *, seed: int = 0, policies: Policies | None = None) -> list[Again]:
    """Every step of a recorded answer decided again under another gate, in order, without a model. Source: arXiv 2602.04925, Stage III.

    After the first step whose decision differs (or that the recording cannot answer), the answer would have continued with other text, so
    later decisions hold for the recorded text only. :func:`stir_core.what_if` continues with the model instead.

    Args:
        trace: one answer with its evidence.
        recorded: the gate that it was recorded with, e.g. ``run.config.gate``.
        gate: the gate to try, e.g. ``stir.with_changes(run.config.gate, rho=0.0)``.
        seed: the run's seed; only the variant ``random_choice`` draws.
        policies: the run's learned gates (``run.policies()``), for a gate with such a ``policy``.

    Returns:
        One :class:`Again` for each step; if the recording does not answer, its ``decision`` is ``None`` and ``missing`` says why.
        ``alpha`` is a multiple of the raw action vector, scores have no unit, gains are in nats per token.

    Raises nothing of its own: ``missing`` names what the recording does not hold.
    """
    return [decide_again(step, recorded, gate, seed=seed, name=trace.id, policies=policies) for step in trace.steps]


def _told_again(
    step: StepTrace, recorded: GateConfig, gate: GateConfig, margins: Sequence[MarginThreshold], about: dict[str, Any]
) -> Again:
    """The calibrated rule on evidence of the published one: null unless the key margin tells "wrong", then corrective entries only."""
    evidence = step.evidence
    here = [each for each in margins if each.m == evidence.m]
    reason = Reason(kind="abstains")
    if any(each.threshold is not None for each in here):
        if len(here) > 1 or {each.layer for each in evidence.retrieved} != {here[0].layer}:
            return Again(evidence, None, "the calibrated rule retrieves from some layers only")
        known, whole, threshold = here[0], len(evidence.retrieved) == evidence.n_entries, here[0].threshold or 0.0
        corrective = tuple(each for each in evidence.retrieved if each.kind == "corrective")
        sims = [[each.sim for each in evidence.retrieved if each.kind == kind][: known.nearest] for kind in ("corrective", "null")]
        if not whole and min(map(len, sims)) < known.nearest:
            return Again(evidence, None, "the nearest keys of each kind were not all retrieved")
        if all(sims):  # without keys of both kinds there is no margin
            margin = fmean(sims[0]) - fmean(sims[1])
            if margin > threshold:
                if not whole:
                    return Again(evidence, None, "the calibrated rule retrieves further corrective entries")
                return decide_again(step.replaced(evidence=evidence.replaced(retrieved=corrective)), recorded, gate, **about)
            reason = Reason(kind="below_margin", value=margin, limit=threshold)
    evidence = evidence.replaced(**_BARE, not_retrieved=reason)
    return Again(evidence, decide(evidence, gate, **about), None)


def _blocked(evidence: StepEvidence, gate: GateConfig) -> Reason | None:
    """The reason why the gate would retrieve nothing, as :meth:`stir_core.intervene.memory.Memory.retrieve` gives it."""
    if evidence.n_entries < gate.min_entries:
        return Reason(kind="too_few_entries", value=evidence.n_entries, limit=gate.min_entries)
    best = evidence.retrieved[0].sim
    return Reason(kind="below_min_sim", value=best, limit=gate.min_sim) if best < gate.min_sim else None


def _never_looked(step: StepTrace, recorded: GateConfig, gate: GateConfig) -> str | None:
    """The missing retrieval, if a recorded threshold prevented it and the other gate's would not."""
    evidence = step.evidence
    if evidence.not_retrieved is None or not gate_was_asked(step) or evidence.n_entries < gate.min_entries:
        return None
    if evidence.not_retrieved.kind == "below_min_sim" and gate.min_sim >= recorded.min_sim:
        return None
    return f"nothing was retrieved here ({evidence.not_retrieved})"


def _not_retrieved(evidence: StepEvidence, recorded: GateConfig, gate: GateConfig) -> str | None:
    n = len(evidence.retrieved)
    if gate.k_retrieve > recorded.k_retrieve == n < evidence.n_entries:  # with fewer than k_retrieve there were no more to retrieve
        return f"{n} of the {evidence.n_entries} entries were retrieved, k_retrieve {gate.k_retrieve} asks for more"
    return None


def _not_previewed(whole: StepEvidence, evidence: StepEvidence, recorded: GateConfig, gate: GateConfig) -> str | None:
    """The previews that the other gate needs and that were not made, or not in the same way."""
    wanted = () if gate.variant == "no_probing" else shortlist(evidence.retrieved, gate)
    previewed = {entry.entry_id for entry in shortlist(whole.retrieved, recorded)}
    fresh = [entry.entry_id for entry in wanted if entry.entry_id not in previewed]
    if fresh:
        return f"{', '.join(fresh)} was not previewed"
    if wanted and gate.probe_tokens != recorded.probe_tokens:
        return f"previews are {recorded.probe_tokens} tokens long, not {gate.probe_tokens}"
    scaled = [e.entry_id for e in wanted if not isclose(preview_scale(e, gate), preview_scale(e, recorded), rel_tol=1e-9)]
    return f"{', '.join(scaled)} was previewed at another strength" if scaled else None
