"""Problems on which a method and the baseline differ: the list, two answers side by side, and the gate's decisions in one of them."""

import streamlit as st
from streamlit import column_config as cc

from stir_core.findings import Answer
from stir_core.records import Trace
from workbench import session
from workbench.evaluate import data as flips
from workbench.shared.conclusion import readable
from workbench.shared.facts import EvaluationFacts, RunFacts, gate_of
from workbench.shared.gate_evidence import step_table
from workbench.shared.gate_replay import replay_answer
from workbench.shared.text import plain
from workbench.shared.trace_comparison import grade_of
from workbench.shared.view_gate import STEP_COLUMNS, answer_margins, choose_gate_step, step_detail
from workbench.shared.view_tables import Columns, data_table, number_column
from workbench.shared.view_text import text_strip

_TABLE = "evaluate_flips"


def flip_views(facts: RunFacts, evaluation: EvaluationFacts) -> None:
    """Choices of a method and a problem, and both answers to it."""
    names = [name for name, method in evaluation.methods.items() if method.versus]
    if not names:
        st.caption("Nothing is compared with the baseline yet.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        method = session.choose_one(session.METHOD, "Method", names, width=320, format_func=readable)
        outcome = _outcome(evaluation, method)
    problem = _choose_problem(evaluation, method, outcome)
    if problem is not None:
        _answers(facts, evaluation, method, problem)


def _outcome(evaluation: EvaluationFacts, method: str) -> list[str]:
    versus = evaluation.methods[method].versus
    counts = {"won": len(versus.won), "lost": len(versus.lost), "tied": versus.tied} if versus else {}
    return st.segmented_control(
        f"Against {plain(evaluation.spec.baseline)}",
        list(flips.OUTCOMES),
        selection_mode="multi",
        format_func=lambda name: f"{name} {counts.get(name, 0)}",
        key="evaluate_outcomes",
        help="Won: the method was right and the baseline wrong; lost: the reverse; tied: neither. None chosen shows all.",
    )


def _choose_problem(evaluation: EvaluationFacts, method: str, outcome: list[str]) -> str | None:
    whole = flips.outcome_table(evaluation, method)
    table = whole.query("outcome in @outcome").reset_index(drop=True) if outcome else whole

    def choose_row(row: int) -> None:
        session.point_at(session.ANSWERED, str(table["problem"].iloc[row]))

    alt, height = f"Problems that {method} won, lost and tied", "content" if len(table) < 8 else 300
    data_table(table, FLIP_COLUMNS, alt, key=_TABLE, height=height, clicked=choose_row)
    stale = (
        ""
        if len(whole) == evaluation.report.problems
        else " The answers have changed since the report was written: call the command again."
    )
    st.caption(f"n = {len(table)} of {len(whole)} problems. Click a row for its two answers.{stale}")
    return session.choose_one(session.ANSWERED, "Problem", list(whole["problem"]), width=420) if len(whole) else None


def _answers(facts: RunFacts, evaluation: EvaluationFacts, method: str, problem: str) -> None:
    task = evaluation.problems[problem]
    st.text(task.question)
    st.caption(plain(f"gold {task.answer}"))
    seeds = max(evaluation.seeds(method), evaluation.seeds(evaluation.spec.baseline))
    seed = 0
    if seeds > 1:
        numbers = [str(number) for number in range(seeds)]
        seed = int(st.segmented_control("Seed", numbers, default="0", required=True, key="evaluate_seed") or 0)
    pair = flips.pair_of(evaluation, method, problem, seed)
    if pair is None:
        st.caption("One of the two answers is missing.")
        return
    for column, answer in zip(st.columns(2, gap="medium"), pair, strict=True):
        with column:
            _answer(answer)
    _decisions(facts, evaluation, method, pair.method.trace)


def _decisions(facts: RunFacts, evaluation: EvaluationFacts, method: str, trace: Trace | None) -> None:
    if trace is None:
        st.caption(plain(f"No steps are stored with this answer of {readable(method)}, so there are no decisions to show."))
        return
    with st.expander(plain(f"Decisions of {readable(method)} at each step of this answer"), expanded=True):
        if any(step.evidence.retrieved for step in trace.steps):
            gate = gate_of(evaluation.spec, method)
            answer = replay_answer(trace, gate, gate, seed=facts.config.seed, policies=facts.policies)
            answer_margins(facts, trace, answer)
            step = choose_gate_step(trace)
            step_detail(gate, answer.at(step.m) if step else None)
            return
        steps = step_table(trace).reindex(columns=["m", "chosen", "alpha", "tokens", "reason"])
        data_table(steps, STEP_COLUMNS, "Steps of the answer")
        st.caption("Nothing was retrieved: this method does not use the gate, or its library is empty.")


def _answer(answer: Answer) -> None:
    grade = grade_of(answer)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.header(plain(readable(answer.method)), anchor=False)
        st.badge(grade, color="green" if grade == "right" else "gray")
    text_strip(flips.answer_segments(answer), key=f"flip_{answer.method}_{answer.problem_id}_{answer.seed}", height=340)
    st.caption(plain(flips.verdict_line(answer)))
    st.caption(plain(flips.answer_facts(answer)))


FLIP_COLUMNS: Columns = {
    "outcome": cc.TextColumn("outcome", help="Of the method against the baseline.", width=66),
    "problem": cc.TextColumn("problem", width=220),
    "baseline right": cc.TextColumn("base right", help="Whether the baseline was right (several seeds: how often).", width=76),
    "method right": cc.TextColumn("method right", help="Whether the method was right (several seeds: how often).", width=88),
    "baseline answer": cc.TextColumn("base answer", help="Final answer extracted from its first answer text.", width=86),
    "method answer": cc.TextColumn("method answer", help="Final answer extracted from its first answer text.", width=98),
    "gold": cc.TextColumn("gold", width=60),
    "baseline tokens": number_column("base tokens", "%.0f", "Committed and probe tokens.", width=84),
    "method tokens": number_column("method tokens", "%.0f", "Committed and probe tokens.", width=98),
    "question": cc.TextColumn("question", width=340),
}
