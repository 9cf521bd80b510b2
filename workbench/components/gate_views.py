"""The Gates page's pieces: which answer, where the margins lay, and one step taken apart."""

import streamlit as st

from stir_core.config import GateConfig
from stir_core.records import StepTrace, Trace
from workbench import session
from workbench.components.column_styles import PROBLEM_COLUMNS, STEP_COLUMNS
from workbench.components.command_line import command_line
from workbench.components.text_strip import text_strip
from workbench.components.why_not import why_not
from workbench.figures import gate_margins as figures
from workbench.services import gate_evidence as evidence
from workbench.services.command_lines import trace_command
from workbench.services.run_facts import RunFacts
from workbench.services.text_segments import segment, text_segments, trace_segments
from workbench.services.visible_text import plain

_TABLE, _HEATMAP = "gates_table", "gates_heatmap"


def choose_answer(facts: RunFacts) -> Trace:
    """The held-out problems; a click on a row or the selectbox chooses one."""
    ids = list(facts.steered)

    def choose_row() -> None:
        rows = session.selected_rows(_TABLE)
        if rows:
            session.point_at(session.PROBLEM, ids[rows[0]])

    table = evidence.problem_table(facts.steered, facts.vanilla)
    st.dataframe(
        table,
        hide_index=True,
        placeholder="",
        column_config=PROBLEM_COLUMNS,
        key=_TABLE,
        on_select=choose_row,
        selection_mode="single-row",
        height=230,
        alt="Held-out problems",
    )
    chosen = session.choose(session.PROBLEM, "Held-out problem", ids)
    problem = facts.held_out.get(chosen)
    if problem:
        st.text(problem.question)
        verdict = facts.steered[chosen].verdict
        st.caption(plain(f"gold {problem.answer}" + (f" · steered: {verdict.reason}" if verdict else "")))
    return facts.steered[chosen]


def firing(facts: RunFacts) -> None:
    """How often the gate committed, step by step, over all held-out answers."""
    st.markdown("**How often the gate fired**")
    table = evidence.firing_by_step(facts.steered.values())
    if table.empty:
        st.caption("No held-out answer got past its first step, which is never steered.")
        return
    st.altair_chart(figures.firing_by_step(table), alt="Share of held-out answers with a commit before each step")
    total = f"{sum(table['fired'].tolist())} of {sum(table['n'].tolist())} steps"
    st.caption(f"n = {len(facts.steered)} answers; {total} fired. Number above a bar: answers that got there. Spans: Wilson 95 %.")


def answer_margins(facts: RunFacts, trace: Trace) -> None:
    """Step by candidate margins and the step table of one answer."""
    st.markdown("**Score minus null score, step by candidate**")
    table = evidence.margin_table(trace)
    ids = {str(step.step) for step in trace.steps}
    if table.empty:
        st.caption("No candidate was scored in this answer.")
    else:

        def choose_cell() -> None:
            cells = session.selected_cells(_HEATMAP, figures.CELL)
            if cells and str(cells[0].get("step")) in ids:
                session.point_at(session.STEP, str(cells[0]["step"]))
            if cells and cells[0].get("entry") in facts.entries:
                session.point_at(session.ACTION, str(cells[0]["entry"]))

        chart = figures.margin_heatmap(table, len(trace.steps))
        st.altair_chart(chart, key=_HEATMAP, on_select=choose_cell, alt="Margins of all scored candidates by step")
        st.caption(
            f"n = {len(table)} scored candidates. Red beats null, blue does not; framed: committed. Click a cell to take its step apart."
        )
    st.dataframe(evidence.step_table(trace), hide_index=True, placeholder="", column_config=STEP_COLUMNS, alt="Steps of the answer")


def choose_step(trace: Trace) -> StepTrace | None:
    """The step to take apart."""
    numbers = [str(step.step) for step in trace.steps]
    if not numbers:
        st.caption("This answer has no steps.")
        return None
    looked = next((str(step.step) for step in trace.steps if step.decision.chosen), None)
    looked = looked or next((str(step.step) for step in trace.steps if step.evidence.retrieved), None)
    return evidence.step_numbered(trace, int(session.choose_short(session.STEP, "Step", numbers, first=looked)))


def step_detail(gate: GateConfig, step: StepTrace | None) -> None:
    """One step: the funnel, the reason, and every candidate's numbers and fate under the gate that decided it."""
    if step is None:
        return
    why_not(step.evidence, step.decision, gate)
    fired = step.decision.chosen
    mark = [segment(f"⟦{fired} × {step.decision.alpha:.2f}⟧ ", "mark")] if fired else []
    head = f"step {step.step}: {len(step.token_ids)} tokens, {step.probe_tokens} probe tokens"
    text_strip([*mark, *text_segments(step.text, "steered" if fired else "plain")], key="gates_step_text", head=head, height=200)


def answer_text(trace: Trace) -> None:
    """The whole steered answer with its steps numbered and its impulses marked."""
    with st.expander("The whole answer, steps numbered, impulses marked"):
        text_strip(trace_segments(trace), key="gates_answer", height=520)
        st.caption(f"{trace.tokens_used} tokens, ended by {trace.finish}. Underlined: decoded while an impulse was live.")


def reproduce(facts: RunFacts, trace: Trace) -> None:
    """The command that decodes this answer again."""
    command_line(trace_command(facts.run, trace.id))
