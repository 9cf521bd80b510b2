"""A recorded step decided again under another gate, without a model, as far as the recorded evidence reaches.

Pure, like the gate itself. Where the evidence does not reach, says what is missing; never guesses.
"""

from math import isclose
from typing import Literal, NamedTuple

from stir_core.config import GateConfig
from stir_core.intervene.gate import decide, preview_scale, shortlist
from stir_core.records import Decision, Reason, StepEvidence, StepTrace, Trace

ANSWERABLE: dict[str, Literal["decision", "strength", "less", "model"]] = {
    "variant": "model",
    "k_retrieve": "less",
    "candidates": "less",
    "probe_tokens": "less",
    "beta": "strength",
    "rho": "decision",
    "k_scale": "strength",
    "tau_null": "decision",
    "min_sim": "decision",
    "min_entries": "decision",
    "min_tool_m": "model",
    "max_tool_m": "model",
    "preview_scale": "less",
    "persistence": "model",
    "noise": "model",
}
"""What a recording answers about a gate whose parameter has another value.

``decision``: all but what a threshold kept from being measured, since the parameter enters the decision alone. ``strength``: the same where
previews run at scale 1; elsewhere it enters their strength, too. ``less``: what asks for no more than was measured. ``model``: nothing.
"""


class Again(NamedTuple):
    """A step under another gate."""

    evidence: StepEvidence
    """The part of the recorded evidence that the other gate would have seen."""
    decision: Decision | None
    """``None``: not in the recording."""
    missing: str | None
    """What the recording does not hold, and a model would have to measure."""


def gate_was_asked(step: StepTrace) -> bool:
    """False where no setting of the thresholds and weights could have steered: control point 0, no entries there, a forced step, ..."""
    evidence = step.evidence
    if evidence.not_retrieved is None:
        return not _forced(step)
    return evidence.n_entries > 0 and evidence.not_retrieved.kind in ("below_min_sim", "too_few_entries")


def _forced(step: StepTrace) -> bool:
    """True when the decision was made for the gate; another gate would have been overruled in the same way."""
    return step.decision.reason.kind in ("forced", "inside_step")


def decide_again(step: StepTrace, recorded: GateConfig, gate: GateConfig, *, seed: int = 0, name: str = "") -> Again:
    """Decide a recorded step under another gate.

    The state at the step is taken as recorded: behind a step where the other gate decides otherwise, the answer would have gone on
    differently, and what is decided here holds for the recorded text only.

    Args:
        recorded: the gate that the step was recorded with.
        seed, name: see :func:`stir_core.intervene.gate.decide`.
    """
    evidence = step.evidence
    if _forced(step):
        return Again(evidence, step.decision, None)
    others = [key for key, reach in ANSWERABLE.items() if reach == "model" and getattr(gate, key) != getattr(recorded, key)]
    if others:
        return Again(evidence, None, f"{', '.join(others)} changes what is measured")
    if evidence.not_retrieved is not None:
        missing = _never_looked(step, recorded, gate)
        return Again(evidence, None if missing else decide(evidence, gate, seed=seed, name=name), missing)
    blocked = _blocked(evidence, gate)
    if blocked is not None:
        bare = {"retrieved": (), "null_logprob": None, "null_preview_ids": (), "not_retrieved": blocked}
        evidence = evidence.replaced(**bare)
        return Again(evidence, decide(evidence, gate, seed=seed, name=name), None)
    if gate.k_retrieve < len(evidence.retrieved):
        evidence = evidence.replaced(retrieved=evidence.retrieved[: gate.k_retrieve])
    missing = _not_retrieved(evidence, gate) or _not_previewed(step.evidence, evidence, recorded, gate)
    return Again(evidence, None if missing else decide(evidence, gate, seed=seed, name=name), missing)


def redecide(trace: Trace, recorded: GateConfig, gate: GateConfig, *, seed: int = 0) -> list[Again]:
    """Every step of a recorded answer decided again under another gate, in order, without a model. Source: arXiv 2602.04925, Stage III.

    Behind the first step that comes out otherwise (or that the recording cannot answer), an answer would have gone on with other text: what
    is decided there holds for the recorded text only. :func:`stir_core.what_if` decodes on with the model instead.

    Args:
        trace: one answer with its evidence.
        recorded: the gate that it was recorded with, e.g. ``run.config.gate``.
        gate: the gate that is tried, e.g. ``stir.with_changes(run.config.gate, rho=0.0)``.
        seed: the run's seed; only the variant ``random_choice`` draws.

    Returns:
        One :class:`Again` a step; its ``decision`` is ``None``, and ``missing`` says why, where other parameters would have measured what
        was not recorded. ``alpha`` is a multiple of the raw action vector, scores have no unit, gains are nats a token.

    Raises nothing of its own: what the recording does not answer is said in ``missing``.
    """
    return [decide_again(step, recorded, gate, seed=seed, name=trace.id) for step in trace.steps]


def _blocked(evidence: StepEvidence, gate: GateConfig) -> Reason | None:
    """The threshold of the gate that would let nothing be retrieved, as :meth:`stir_core.intervene.memory.Memory.retrieve` says it."""
    if evidence.n_entries < gate.min_entries:
        return Reason(kind="too_few_entries", value=evidence.n_entries, limit=gate.min_entries)
    best = evidence.retrieved[0].sim
    return Reason(kind="below_min_sim", value=best, limit=gate.min_sim) if best < gate.min_sim else None


def _never_looked(step: StepTrace, recorded: GateConfig, gate: GateConfig) -> str | None:
    """What is missing where a threshold kept the library shut and would now open it."""
    evidence = step.evidence
    if evidence.not_retrieved is None or not gate_was_asked(step) or evidence.n_entries < gate.min_entries:
        return None
    if evidence.not_retrieved.kind == "below_min_sim" and gate.min_sim >= recorded.min_sim:
        return None
    return f"nothing was retrieved here ({evidence.not_retrieved})"


def _not_retrieved(evidence: StepEvidence, gate: GateConfig) -> str | None:
    seen = len(evidence.retrieved)
    if gate.k_retrieve > seen and evidence.n_entries > seen:
        return f"{seen} of the {evidence.n_entries} entries were retrieved, k_retrieve {gate.k_retrieve} asks for more"
    return None


def _not_previewed(whole: StepEvidence, evidence: StepEvidence, recorded: GateConfig, gate: GateConfig) -> str | None:
    """What previews the other gate would have asked for that were not made, or not like that."""
    wanted = () if gate.variant == "no_probing" else shortlist(evidence.retrieved, gate)
    previewed = {entry.entry_id for entry in shortlist(whole.retrieved, recorded)}
    fresh = [entry.entry_id for entry in wanted if entry.entry_id not in previewed]
    if fresh:
        return f"{', '.join(fresh)} was not previewed"
    if wanted and gate.probe_tokens != recorded.probe_tokens:
        return f"previews are {recorded.probe_tokens} tokens long, not {gate.probe_tokens}"
    scaled = [e.entry_id for e in wanted if not isclose(preview_scale(e, gate), preview_scale(e, recorded), rel_tol=1e-9)]
    return f"{', '.join(scaled)} was previewed at another strength" if scaled else None
