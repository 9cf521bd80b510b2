"""The Gates page's last section: any two gates on the same recorded evidence, and both decisions where they differ."""

import streamlit as st
from streamlit import column_config as cc

from workbench import session
from workbench.bootstrap import known_evaluations
from workbench.gates import policies as tables
from workbench.gates.policies import Pairing
from workbench.shared.command_lines import policy_command
from workbench.shared.facts import RunFacts
from workbench.shared.gate_evidence import candidate_table
from workbench.shared.text import plain, text_segments
from workbench.shared.view_gate import CANDIDATE_COLUMNS
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import Columns, data_table, number_column
from workbench.shared.view_text import text_strip

_STEP = "gates_compared_step"


def compare_policies(facts: RunFacts) -> None:
    """Choose the evidence and two gates; draw how often they agree, where they differ, and one such step in full."""
    st.caption("Any two gates on the same recorded evidence. The sliders above do not apply here.")
    policies = facts.policies
    offered = tables.evidences(facts, known_evaluations(facts))
    names = [tables.PUBLISHED, tables.CALIBRATED, *(policies.weights if policies else ())]
    left, middle, right = st.columns([2, 1, 1], gap="medium")
    with left:
        source = session.choose_one(session.EVIDENCE, "Recorded answers", list(offered))
    with middle:
        first = session.choose_one(session.FIRST_GATE, "First gate", names)
    with right:
        second = session.choose_one(session.SECOND_GATE, "Second gate", names[1:] + names[:1])
    if policies is None:
        command_line(policy_command(facts.run), "This run has no learned gates: learn them, and they can be chosen here")
    pairs = tables.paired_decisions(facts, offered[source], first, second)
    st.markdown(plain(f"n = {len(pairs)} steps of {len(offered[source].traces)} answers. {tables.agreement_line(pairs)}"))
    st.caption(
        "Each step is decided by itself, on its recorded text. The same action at another strength counts as agreement. Intervals: Wilson "
        "95 %, which treat steps as independent."
    )
    if all(pair.kind == "needs the model" for pair in pairs):
        return
    data_table(tables.count_table(pairs), COUNT_COLUMNS, "Decisions of both gates")
    differ = tables.disagreements(pairs)
    if differ:
        _differing(facts, differ, first, second)


def _differing(facts: RunFacts, differ: list[Pairing], first: str, second: str) -> None:
    names = [f"{pair.answer} m {pair.step.m}" for pair in differ]

    def choose_row(row: int) -> None:
        session.set_state(_STEP, names[row])
        if differ[row].answer in facts.steered:
            session.point_at(session.PROBLEM, differ[row].answer)
            session.point_at(session.CONTROL_POINT, str(differ[row].step.m))

    table = tables.differing_table(differ, first, second)
    height = min(320, 38 + 35 * len(table))
    data_table(table, DIFFERING_COLUMNS, "Steps at which the gates differ", key="gates_differing", height=height, clicked=choose_row)
    answers = len({pair.answer for pair in differ})
    st.caption(f"n = {len(differ)} steps of {answers} answers at which they differ. Click a row to see both decisions below.")
    chosen = session.state_of(_STEP)
    pair = differ[names.index(chosen)] if chosen in names else differ[0]
    st.header(f"{plain(pair.answer)}, control point {pair.step.m}: {pair.kind}", anchor=False)
    for column, name, again in zip(st.columns(2, gap="medium"), (first, second), (pair.first, pair.second), strict=True):
        with column:
            assert again.decision is not None  # the gates differ only where both decide
            st.header(f"{plain(name)}: {plain(tables.decision_word(again.decision))}", anchor=False)
            st.text(str(again.decision.reason))
            if again.evidence.retrieved:
                data_table(candidate_table(again.evidence, again.decision), CANDIDATE_COLUMNS, f"Candidates under {name}")
    text_strip(text_segments(pair.step.text), key="gates_compared_text", head="The recorded step that followed")


COUNT_COLUMNS: Columns = {
    "decision": cc.TextColumn("decisions", pinned=True, width=160),
    "steps": number_column("steps", "%d", "Steps with these two decisions.", width=56),
    "of": number_column("of", "%d", "Steps that the recording answers under both gates.", width=56),
    "share": cc.NumberColumn("share", format="percent", width=60),
    "low": cc.NumberColumn("low", format="percent", help="Lower end of Wilson's 95 % interval.", width=60),
    "high": cc.NumberColumn("high", format="percent", width=60),
    "answers": number_column("answers", "%d", "Answers in which it occurs.", width=66),
    "right": number_column("right", "%d", "Of these, answers that were right as recorded; either gate might have changed them.", width=52),
}
DIFFERING_COLUMNS: Columns = {
    "answer": cc.TextColumn("answer", pinned=True, width=200),
    "m": number_column("m", "%d", "Control point: finished steps.", width=40),
    "recorded": cc.TextColumn("recorded", help="The decision in the recording.", width=110),
    "right": cc.CheckboxColumn("right", help="Verdict of the recorded answer.", width=52),
}
