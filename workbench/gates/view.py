"""The Gates page's settings and its tab on one answer: sliders, choice of the answer, its steps and its text, and the command.

The sliders are bound to the address, and each shows the run's own value.
"""

from collections.abc import Mapping

import streamlit as st
from streamlit import column_config as cc
from streamlit.delta_generator import DeltaGenerator

from stir_core.config import GateConfig, with_changes
from stir_core.records import Trace
from stir_core.saved import SavedRedecision
from workbench import session
from workbench.gates.data import Scale, scales
from workbench.shared import gate_evidence as evidence
from workbench.shared import gate_replay as replay
from workbench.shared.command_lines import gate_command, redecide_python, trace_command
from workbench.shared.facts import RunFacts
from workbench.shared.gate_replay import AnswerReplay
from workbench.shared.text import plain, trace_segments
from workbench.shared.view_gate import answer_margins, choose_gate_step, step_detail
from workbench.shared.view_page import command_line
from workbench.shared.view_saved import opened
from workbench.shared.view_tables import Columns, data_table, number_column
from workbench.shared.view_text import text_strip

_RUN, _PUT_BACK = "gates_settings_of", "gates_put_back"


def tried(facts: RunFacts) -> GateConfig:
    """Draw the sliders and return the gate with their values, checked by the config's own rules."""
    offered = scales(facts.config.gate, facts.steered.values())
    found = opened(facts, "re-decision")
    if session.first_state(_RUN, facts.name) != facts.name:  # another run has settings of its own
        session.set_state(_RUN, facts.name)
        _put_back(offered)
    if found is not None and isinstance(found[1], SavedRedecision):
        _put_back(offered, found[1].gate)
    fresh = session.take_state(_PUT_BACK, False)
    with st.container(border=True, gap="xsmall"):
        *columns, last = st.columns([*(1 for _ in offered), 0.8], vertical_alignment="center", gap="medium")
        values = {scale.name: _slider(column, scale, seeded=fresh) for scale, column in zip(offered, columns, strict=True)}
        last.button("Reset", key="gates_reset", help="Back to the run's own settings.", on_click=_put_back, args=(offered,))
    return with_changes(facts.config.gate, **values)


def _slider(column: DeltaGenerator, scale: Scale, *, seeded: bool) -> float | int:
    """One slider. ``seeded``: its session state was just written; Streamlit warns if it is given a default as well."""
    kind = int if scale.whole else float
    label = plain(f"{scale.label} · run {scale.own:g}")
    value = column.slider(
        label,
        kind(scale.low),
        kind(scale.high),
        None if seeded else kind(scale.own),
        kind(scale.step),
        key=_key(scale),
        help=f"gate.{scale.name}: {scale.help} The run's own value is {scale.own:g}.",
        bind="query-params",
        persist_state="session",
    )
    return int(value) if scale.whole else round(float(value), 6)


def _key(scale: Scale) -> str:
    return f"gates_{scale.name}"


def _put_back(offered: list[Scale], gate: GateConfig | None = None) -> None:
    """The sliders at the run's own values, or at those of ``gate``."""
    for scale in offered:
        value = scale.own if gate is None else min(max(getattr(gate, scale.name), scale.low), scale.high)
        session.set_state(_key(scale), int(value) if scale.whole else float(value))
    session.set_state(_PUT_BACK, True)


def choose_answer(facts: RunFacts) -> Trace:
    """The held-out answer to look at; a click on a row or the selectbox chooses it."""
    ids = list(facts.steered)

    def choose_row(row: int) -> None:
        session.point_at(session.PROBLEM, ids[row])

    table = evidence.problem_table(facts.steered, facts.vanilla)
    data_table(table, PROBLEM_COLUMNS, "Held-out problems", key="gates_table", height=230, clicked=choose_row)
    chosen = session.choose_one(session.PROBLEM, "Held-out problem", ids, first=facts.first_answer)
    problem = facts.held_out.get(chosen)
    if problem:
        st.text(problem.question)
        verdict = facts.steered[chosen].verdict
        st.caption(plain(f"gold {problem.answer}" + (f" · steered: {verdict.reason}" if verdict else "")))
    return facts.steered[chosen]


def one_answer(facts: RunFacts, gate: GateConfig, answers: Mapping[str, AnswerReplay]) -> None:
    """One held-out answer: which, one of its steps in full, all its steps, its text, and the code that makes this."""
    trace, changed = choose_answer(facts), gate != facts.config.gate
    step = choose_gate_step(trace, list(facts.steered))
    step_detail(gate, answers[trace.id].at(step.m) if step else None, changed=changed)
    answer_margins(facts, trace, answers[trace.id], changed=changed)
    answer_text(trace)
    reproduce(facts, gate, trace)


def answer_text(trace: Trace) -> None:
    """The whole steered answer with its control points numbered and its impulses marked."""
    with st.expander("The whole answer, with control points numbered and impulses marked"):
        text_strip(trace_segments(trace), key="gates_answer", height=520)
        st.caption(f"{trace.tokens_used} tokens, ended by {trace.finish}. Underlined: steps with an impulse.")


def reproduce(facts: RunFacts, gate: GateConfig, trace: Trace | None = None) -> None:
    """Python that decides all answers again as this page does, and the command that decodes: ``trace``, or with changed settings all."""
    changed = replay.changes_of(facts.config.gate, gate)
    st.caption("These decisions in Python, without a model")
    st.code(redecide_python(facts.run, changed), language="python")
    if changed:
        command = gate_command(facts.run, changed, len(facts.steered))
        command_line(command, "Decode all held-out answers with these settings (needs the model)")
    elif trace is not None:
        command_line(trace_command(facts.run, trace.id), "Decode this answer again (needs the model)")


PROBLEM_COLUMNS: Columns = {
    "problem": cc.TextColumn("problem", pinned=True),
    "vanilla right": cc.CheckboxColumn("vanilla right", width=84),
    "steered right": cc.CheckboxColumn("steered right", width=84),
    "steps": number_column("steps", "%d", "Decoded steps of the steered answer.", width=52),
    "commits": number_column("commits", "%d", "Steps where an action was committed.", width=68),
    "tokens": number_column("tokens", "%d", "Committed tokens of the steered answer.", width=62),
    "vanilla tokens": number_column("vanilla tok.", "%d", "Committed tokens without steering.", width=84),
    "probe tokens": number_column("probe tok.", "%d", "Tokens decoded in previews.", width=80),
}
