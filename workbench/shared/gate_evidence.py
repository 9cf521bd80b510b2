"""What the gate saw and did, as tables: recorded evidence only, no model and no second decision."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from stir_core.records import Decision, Retrieved, Scored, StepEvidence, StepTrace, Trace
from workbench.shared.intervals import proportion


class Funnel(NamedTuple):
    """How many entries were left after each of the gate's sieves at one step."""

    library: int
    retrieved: int
    candidates: int
    committed: int


def funnel(evidence: StepEvidence, decision: Decision) -> Funnel:
    """Library at this control point, retrieved, corrective candidates (the L best by value), committed."""
    return Funnel(evidence.n_entries, len(evidence.retrieved), len(decision.scored), int(decision.chosen is not None))


def candidate_table(evidence: StepEvidence, decision: Decision) -> pd.DataFrame:
    """Every retrieved entry with its numbers and its fate: the why-not table. Corrective candidates in preview order come first."""
    scores = {scored.entry_id: scored for scored in decision.scored}
    order = {entry_id: rank for rank, entry_id in enumerate(scores)}
    ranked = sorted(evidence.retrieved, key=lambda c: (order.get(c.entry_id, len(order)), -c.value))
    return pd.DataFrame([_candidate_row(c, scores.get(c.entry_id), evidence, decision) for c in ranked], columns=CANDIDATE_COLUMNS)


CANDIDATE_COLUMNS = ["entry", "kind", "layer", "cosine", "quality", "value", "logprob", "gain", "score", "margin", "fate"]


def _candidate_row(seen: Retrieved, scored: Scored | None, evidence: StepEvidence, decision: Decision) -> tuple[object, ...]:
    score = scored.score if scored else None
    null = decision.score_null
    margin = score - null if score is not None and null is not None else None
    gain = scored.gain if scored else None
    fate = _fate(seen, scored, margin, evidence, decision)
    return (seen.entry_id, seen.kind, seen.layer, seen.sim, seen.quality, seen.value, seen.preview_logprob, gain, score, margin, fate)


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
        return "not scored: preview not measured"
    if margin is None:
        return "scored"
    if margin <= 0:
        return f"not above null, {-margin:.3f} short"
    if decision.chosen is None:
        return f"above null, but {decision.reason}"
    won = next((other.score for other in decision.scored if other.entry_id == decision.chosen), None)
    return "above null, but not committed" if won is None else f"above null, but {decision.chosen} won with {won:.3f}"


def step_table(trace: Trace) -> pd.DataFrame:
    """One row a decoded step: the funnel, the decision and its cost."""
    rows = []
    for step in trace.steps:
        sieve = funnel(step.evidence, step.decision)
        best = max((s.score for s in step.decision.scored if s.score is not None), default=None)
        null = step.decision.score_null
        rows.append(
            {
                "m": step.m,
                "library": sieve.library,
                "retrieved": sieve.retrieved,
                "candidates": sieve.candidates,
                "chosen": step.decision.chosen or "null",
                "best score": best,
                "null score": null,
                "margin": best - null if best is not None and null is not None else None,
                "alpha": step.decision.alpha,
                "tokens": len(step.token_ids),
                "probe": step.probe_tokens,
                "reason": str(step.decision.reason),
            }
        )
    return pd.DataFrame(rows)


def margin_table(trace: Trace) -> pd.DataFrame:
    """Control point by candidate: score minus null score, positive where the candidate beats null. Unscored candidates are left out."""
    rows = [row for step in trace.steps for row in margins_at(step.m, step.evidence, step.decision)]
    return pd.DataFrame(rows, columns=MARGIN_COLUMNS)


def margins_at(m: int, evidence: StepEvidence, decision: Decision, *, diverged: bool = False) -> list[dict[str, object]]:
    """The rows of one step in a margin table; ``diverged``: an earlier step was decided otherwise (see ``StepReplay``)."""
    scored = candidate_table(evidence, decision).dropna(subset=["margin"])
    marks = {"m": m, "diverged": diverged}
    return [{**marks, **{n: row[n] for n in _NUMBERS}, "committed": row["entry"] == decision.chosen} for row in scored.to_dict("records")]


_NUMBERS = ["entry", "cosine", "value", "gain", "score", "margin"]
MARGIN_COLUMNS = ["m", *_NUMBERS, "committed", "diverged"]


def firing_rates(traces: Iterable[Trace]) -> pd.DataFrame:
    """Over all answers: how often the gate committed at each control point, with a Wilson 95 % interval.

    Control point 0 is never steered and is left out; an answer counts only where it got that far.
    """
    reached: dict[int, int] = {}
    fired: dict[int, int] = {}
    for trace in traces:
        for step in trace.steps:
            if step.m == 0:
                continue
            reached[step.m] = reached.get(step.m, 0) + 1
            fired[step.m] = fired.get(step.m, 0) + (step.decision.chosen is not None)
    rows = [(m, *proportion(fired[m], n)) for m, n in sorted(reached.items())]
    return pd.DataFrame(rows, columns=["m", "fired", "n", "rate", "low", "high"])


def step_from(trace: Trace, m: int) -> StepTrace | None:
    """The step that begins at control point ``m``, or ``None`` when the answer ended before it."""
    return next((step for step in trace.steps if step.m == m), None)


def problem_table(steered: dict[str, Trace], vanilla: dict[str, Trace]) -> pd.DataFrame:
    """One row a held-out problem: verdicts of both arms, steps, commits and tokens."""
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
