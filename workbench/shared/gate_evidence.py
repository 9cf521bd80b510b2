"""The gate's recorded evidence and decisions as tables."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from stir_core.config import GateConfig
from stir_core.intervene.gate import needs_all
from stir_core.records import Decision, Retrieved, Scored, StepEvidence, Trace
from workbench.shared.intervals import proportion


class Funnel(NamedTuple):
    """Number of entries left after each of the gate's sieves at one step."""

    library: int
    retrieved: int
    candidates: int
    committed: int


def funnel(evidence: StepEvidence, decision: Decision) -> Funnel:
    """Library at this control point, retrieved, corrective candidates (the L best by value), committed."""
    return Funnel(evidence.n_entries, len(evidence.retrieved), len(decision.scored), int(decision.chosen is not None))


def margin_of(decision: Decision, score: float | None) -> float | None:
    """A candidate's score minus the null score; ``None`` where either was not measured."""
    return None if score is None or decision.score_null is None else score - decision.score_null


def best_score(decision: Decision) -> float | None:
    """The best candidate's score; ``None`` where none was scored, or one whose preview was stopped might have more."""
    best = max((scored.score for scored in decision.scored if scored.score is not None), default=None)
    most = max((scored.at_most for scored in decision.scored if scored.at_most is not None), default=None)
    return None if best is not None and most is not None and most > best else best


def funnel_line(evidence: StepEvidence, decision: Decision, *, mark: str = "") -> str:
    """The funnel of one step in words; ``mark`` is set around each number."""
    words = (f"library at m = {evidence.m}:", "→ retrieved", "→ candidates", "→ committed")
    line = " ".join(f"{word} {mark}{n}{mark}" for word, n in zip(words, funnel(evidence, decision), strict=True))
    return line if evidence.recall is None else f"{line}; retrieved by an approximate index of recall {evidence.recall:.2f}"


def score_line(evidence: StepEvidence, decision: Decision, gate: GateConfig) -> str:
    """The formula of a score, with the numbers that all candidates of the step share."""
    null_score = "not measured" if decision.score_null is None else f"{decision.score_null:.3f}"
    null_preview = "not measured" if evidence.null_logprob is None else f"{evidence.null_logprob:.3f} nats per token"
    formula = f"score = {gate.beta:g} A + {gate.rho:g} gain"
    why = needs_all(gate) if gate.previews == "needed" else None
    every = f"; every candidate is previewed to its end: {why}" if why else ""
    return f"{formula}; null score {null_score}; unsteered preview {null_preview}; strength {gate.k_scale:g}{every}"


def candidate_table(evidence: StepEvidence, decision: Decision) -> pd.DataFrame:
    """Every retrieved entry with its numbers and its fate; corrective candidates come first, in preview order."""
    scores = {scored.entry_id: scored for scored in decision.scored}
    order = {entry_id: rank for rank, entry_id in enumerate(scores)}
    ranked = sorted(evidence.retrieved, key=lambda c: (order.get(c.entry_id, len(order)), -c.value))
    rows = []
    for seen in ranked:
        scored = scores.get(seen.entry_id)
        score, gain = (scored.score, scored.gain) if scored else (None, None)
        margin = margin_of(decision, score)
        fate = _fate(seen, scored, margin, evidence, decision)
        retrieved = (seen.entry_id, seen.kind, seen.layer, seen.sim, seen.quality, seen.value, seen.preview_logprob)
        rows.append((*retrieved, gain, score, margin, fate))
    return pd.DataFrame(rows, columns=CANDIDATE_COLUMNS)


CANDIDATE_COLUMNS = ["entry", "kind", "layer", "cosine", "quality", "value", "logprob", "gain", "score", "margin", "fate"]


def _fate(seen: Retrieved, scored: Scored | None, margin: float | None, evidence: StepEvidence, decision: Decision) -> str:
    if seen.entry_id == decision.chosen:
        return f"committed, alpha {decision.alpha:.2f}"
    if seen.kind == "null":
        best = max((c.value for c in evidence.retrieved if c.kind == "null"), default=None)
        return "sets the null value" if seen.value == best else "null entry, below the best null"
    if scored is None:
        worst = min((candidate.value for candidate in decision.scored), default=None)
        return "no candidate: value below the L best" + (f" ({seen.value:.3f} < {worst:.3f})" if worst is not None else "")
    if scored.score is None:
        return scored.stopped or "not scored: preview not measured"
    if margin is None:
        return "scored"
    if margin <= 0:
        return f"not above null, {-margin:.3f} short"
    if decision.chosen is None:
        return f"above null, but {decision.reason}"
    won = next((other.score for other in decision.scored if other.entry_id == decision.chosen), None)
    return "above null, but not committed" if won is None else f"above null, but {decision.chosen} won with {won:.3f}"


def step_table(trace: Trace) -> pd.DataFrame:
    """One row per decoded step: the funnel, the decision and its cost."""
    rows = []
    for step in trace.steps:
        sieve = funnel(step.evidence, step.decision)
        best = best_score(step.decision)
        rows.append(
            {
                "m": step.m,
                "library": sieve.library,
                "retrieved": sieve.retrieved,
                "candidates": sieve.candidates,
                "chosen": step.decision.chosen or "null",
                "best score": best,
                "null score": step.decision.score_null,
                "margin": margin_of(step.decision, best),
                "alpha": step.decision.alpha,
                "tokens": len(step.token_ids),
                "probe": step.probe_tokens,
                "reason": str(step.decision.reason),
            }
        )
    return pd.DataFrame(rows)


def firing_rates(traces: Iterable[Trace]) -> pd.DataFrame:
    """Over all answers: how often the gate committed at each control point, with a Wilson 95 % interval.

    Control point 0 is never steered and is left out; an answer counts only where it got that far.
    """
    steps = [step for trace in traces for step in trace.steps if step.m > 0]
    reached = Counter(step.m for step in steps)
    fired = Counter(step.m for step in steps if step.decision.chosen is not None)
    rows = [(m, *proportion(fired[m], n)) for m, n in sorted(reached.items())]
    return pd.DataFrame(rows, columns=["m", "fired", "n", "rate", "low", "high"])


def problem_table(steered: dict[str, Trace], vanilla: dict[str, Trace]) -> pd.DataFrame:
    """One row per held-out problem: verdicts of both arms, steps, commits and tokens."""
    rows = []
    for id_, trace in steered.items():
        plain = vanilla.get(id_)
        rows.append(
            {
                "problem": id_,
                "vanilla right": plain.verdict.correct if plain and plain.verdict else None,
                "steered right": trace.verdict.correct if trace.verdict else None,
                "steps": len(trace.steps),
                "commits": sum(step.decision.chosen is not None for step in trace.steps),
                "tokens": trace.tokens_used,
                "vanilla tokens": plain.tokens_used if plain else None,
                "probe tokens": trace.probe_tokens,
            }
        )
    return pd.DataFrame(rows)
