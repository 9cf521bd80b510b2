"""Recorded and tried decisions side by side, as tables: funnel, why-not, the scores' terms, and every step on the gate's axes."""

from collections.abc import Iterable, Mapping

import pandas as pd

from stir_core.config import GateConfig
from stir_core.intervene.replay import Again
from stir_core.records import Decision, StepEvidence, Trace
from workbench.shared.gate_evidence import CANDIDATE_COLUMNS, MARGIN_COLUMNS, candidate_table, funnel, margins_at
from workbench.shared.gate_replay import AnswerReplay, StepReplay

STAGES = ("library at m", "retrieved k", "candidates L", "committed")
"""The gate's sieves, widest first."""
RECORDED, NOW = "recorded", "with these settings"
WHY_NOT_COLUMNS = [*CANDIDATE_COLUMNS, "score now", "margin now", "fate now"]
OUTCOMES = ("gained", "both right", "both wrong", "lost", "not graded")
"""What became of an answer, vanilla against steered as recorded."""
TERMS = ("β (A − A null)", "ρ · gain")
"""What a margin is made of: how far retrieval puts the candidate above null, and what its preview adds."""


def funnel_rows(steps: Iterable[StepReplay]) -> pd.DataFrame:
    """How many entries were left behind each sieve, recorded and now, summed over the steps that the recording can answer.

    Each step is taken by itself, with the text before it as recorded; steps at which the gate was never asked are left out.
    """
    totals = {when: [0] * len(STAGES) for when in (RECORDED, NOW)}
    for step in steps:
        if step.change == "not asked" or step.again.decision is None:
            continue
        pairs = ((RECORDED, step.step.evidence, step.step.decision), (NOW, step.again.evidence, step.again.decision))
        for when, evidence, decision in pairs:
            totals[when] = [total + n for total, n in zip(totals[when], funnel(evidence, decision), strict=True)]
    rows = [(stage, when, totals[when][i]) for when in totals for i, stage in enumerate(STAGES)]
    return pd.DataFrame(rows, columns=["stage", "when", "entries"])


def why_not_rows(evidence: StepEvidence, decision: Decision, again: Again) -> pd.DataFrame:
    """Every retrieved entry with its recorded fate and its fate under the settings that are tried."""
    table = candidate_table(evidence, decision)
    if again.decision is None:
        now = pd.DataFrame({"entry": table["entry"], "score": None, "margin": None, "fate": "not in the recording: needs the model"})
    else:
        now = candidate_table(again.evidence, again.decision)
    shut = again.evidence.not_retrieved
    gone = {"score": None, "margin": None, "fate": f"not retrieved: {shut}" if shut else "not retrieved: outside the k nearest"}
    found = {row["entry"]: row for row in now.to_dict("records")}
    return table.assign(**{f"{n} now": [found.get(id_, gone)[n] for id_ in table["entry"]] for n in ("score", "margin", "fate")})


def term_rows(decision: Decision | None, gate: GateConfig) -> pd.DataFrame:
    """Every scored candidate's margin over null, taken apart: one row a term, and the terms of a candidate add up to its margin."""
    rows = []
    null = decision.score_null if decision is not None else None
    if decision is not None and null is not None:
        for scored in decision.scored:
            if scored.score is None:
                continue
            gain = None if scored.gain is None else gate.rho * scored.gain
            terms = [(TERMS[0], gate.beta * scored.value - null), *([] if gain is None else [(TERMS[1], gain)])]
            numbers = (scored.score - null, gate.beta * scored.value, gain, null, scored.score)
            fate = "committed" if scored.entry_id == decision.chosen else "not committed"
            rows += [(scored.entry_id, term, amount, *numbers, fate) for term, amount in terms]
    return pd.DataFrame(rows, columns=["candidate", "term", "amount", "margin", "beta value", "rho gain", "null score", "score", "fate"])


def margin_rows(answer: AnswerReplay) -> pd.DataFrame:
    """Step by candidate of one answer under the settings that are tried; steps that the recording cannot answer are left out."""
    rows = []
    for step in answer.steps:
        if step.again.decision is not None:
            rows += margins_at(step.step.m, step.again.evidence, step.again.decision, behind=step.behind)
    return pd.DataFrame(rows, columns=MARGIN_COLUMNS)


def outcome(steered: Trace, vanilla: Trace | None) -> str:
    """One of :data:`OUTCOMES`."""
    if steered.verdict is None or vanilla is None or vanilla.verdict is None:
        return "not graded"
    if steered.verdict.correct == vanilla.verdict.correct:
        return "both right" if steered.verdict.correct else "both wrong"
    return "gained" if steered.verdict.correct else "lost"


def map_rows(answers: Mapping[str, AnswerReplay], outcomes: Mapping[str, str]) -> pd.DataFrame:
    """One row a step with a scored candidate: its best candidate's preview gain and margin, the decision and the answer's outcome."""
    rows = []
    for id_, answer in answers.items():
        for step in answer.steps:
            decision = step.again.decision
            usable = [scored for scored in decision.scored if scored.score is not None] if decision else []
            if decision is None or decision.score_null is None or not usable:
                continue
            best = max(usable, key=lambda scored: scored.score or 0.0)
            margin = (best.score or 0.0) - decision.score_null
            did = "committed" if decision.chosen else "null"
            rows.append((id_, step.step.m, best.entry_id, best.gain, margin, did, outcomes[id_], step.change, step.flips, step.behind))
    return pd.DataFrame(rows, columns=["problem", "m", "entry", "gain", "margin", "decision", "outcome", "change", "flips", "behind"])
