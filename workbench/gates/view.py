"""The Gates page's pieces: which answer, where the margins lay, and one step taken apart."""

from collections.abc import Sequence

import streamlit as st

from stir_core.config import GateConfig
from stir_core.intervene.replay import Again
from stir_core.records import StepTrace, Trace
from workbench import session
from workbench.gates import charts_margins as figures
from workbench.gates import data as tables
from workbench.gates.charts_terms import margin_terms
from workbench.gates.view_replay import funnel
from workbench.shared import gate_evidence as evidence
from workbench.shared import gate_replay as replay
from workbench.shared.command_lines import gate_command, trace_command
from workbench.shared.gate_replay import AnswerReplay, StepReplay
from workbench.shared.run_facts import RunFacts
from workbench.shared.text_segments import segment, text_segments, trace_segments
from workbench.shared.view_columns import FLIPPED_COLUMNS, PROBLEM_COLUMNS, STEP_COLUMNS
from workbench.shared.view_command import command_line
from workbench.shared.view_text import text_strip
from workbench.shared.view_why_not import why_not, why_not_again
from workbench.shared.visible_text import plain

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


def answer_margins(facts: RunFacts, trace: Trace, answer: AnswerReplay, *, changed: bool = False) -> None:
    """Step by candidate margins and the step table of one answer; ``changed`` when it was decided again with other settings."""
    st.markdown("**Score minus null score, control point by candidate**")
    table = tables.margin_rows(answer)
    ids = {str(step.m) for step in trace.steps}
    if table.empty:
        st.caption("No candidate was scored in this answer.")
    else:

        def choose_cell() -> None:
            cells = session.selected_cells(_HEATMAP, figures.CELL)
            if cells and str(cells[0].get("m")) in ids:
                session.point_at(session.CONTROL_POINT, str(cells[0]["m"]))
            if cells and cells[0].get("entry") in facts.entries:
                session.point_at(session.ACTION, str(cells[0]["entry"]))

        chart = figures.margin_heatmap(table, len(trace.steps))
        st.altair_chart(chart, key=_HEATMAP, on_select=choose_cell, alt="Margins of all scored candidates by control point")
        pale = " Pale: behind a flip, as recorded up to here only." if any(table["behind"].tolist()) else ""
        st.caption(
            f"n = {len(table)} scored candidates. Red beats null, blue does not; framed: committed.{pale} "
            "Click a cell to take its step apart."
        )
    if changed:
        _steps_again(answer)
    with st.expander("Recorded steps as a table", expanded=not changed):
        st.dataframe(evidence.step_table(trace), hide_index=True, placeholder="", column_config=STEP_COLUMNS, alt="Steps of the answer")


def _steps_again(answer: AnswerReplay) -> None:
    rows = replay.step_rows(answer)
    behind = [step.behind for step in answer.steps]
    grey = rows.style.apply(lambda row: ["color: #8a8f98" if behind[int(row.name)] else ""] * len(row), axis=1).format(
        "{:+.3f}", subset=["margin"], na_rep=""
    )
    columns = {name: FLIPPED_COLUMNS[name] for name in rows.columns}
    st.dataframe(grey, hide_index=True, placeholder="", column_config=columns, alt="Steps of the answer, decided again")


def choose_step(trace: Trace, ids: Sequence[str] = ()) -> StepTrace | None:
    """The step to take apart; arrow keys go through steps, and with Shift through the answers ``ids``."""
    numbers = [str(step.m) for step in trace.steps]
    if not numbers:
        st.caption("This answer has no steps.")
        return None
    looked = next((str(step.m) for step in trace.steps if step.decision.chosen), None)
    looked = looked or next((str(step.m) for step in trace.steps if step.evidence.retrieved), None)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = session.choose_short(session.CONTROL_POINT, "Control point m", numbers, first=looked)
        _arrow("Previous step", session.CONTROL_POINT, numbers, chosen, -1)
        _arrow("Next step", session.CONTROL_POINT, numbers, chosen, +1)
        if trace.id in ids:
            _arrow("Previous answer", session.PROBLEM, ids, trace.id, -1)
            _arrow("Next answer", session.PROBLEM, ids, trace.id, +1)
    return evidence.step_from(trace, int(chosen))


def _arrow(label: str, key: str, options: Sequence[str], now: str, by: int) -> None:
    """A button that goes to a neighbour; its key is drawn on it."""
    place = options.index(now) + by
    arrow = "Left" if by < 0 else "Right"
    st.button(
        label,
        key=f"gates_{label.lower().replace(' ', '_')}",
        shortcut=arrow if key == session.CONTROL_POINT else f"Shift+{arrow}",
        disabled=not 0 <= place < len(options),
        on_click=session.point_at,
        args=(key, options[min(max(place, 0), len(options) - 1)]),
    )


def step_detail(gate: GateConfig, step: StepReplay | None, *, changed: bool = False) -> None:
    """One step: the funnel, the reason, every candidate's numbers and fate, and what its score is made of."""
    if step is None:
        return
    recorded, again = step.step, step.again
    if changed:
        colour = "red" if step.flips else "gray"
        st.badge(f"control point {recorded.m}: {step.change} · {step.standing}", color=colour)
    left, right = st.columns(2, gap="medium")
    with left:
        funnel([step], f"control point {recorded.m}", changed=changed)
    with right:
        _terms(again, gate)
    if changed:
        why_not_again(recorded.evidence, recorded.decision, again, gate)
    else:
        why_not(recorded.evidence, recorded.decision, gate)
    fired = recorded.decision.chosen
    mark = [segment(f"⟦{fired} × {recorded.decision.alpha:.2f}⟧ ", "mark")] if fired else []
    head = f"step after control point {recorded.m}: {len(recorded.token_ids)} tokens, {recorded.probe_tokens} probe tokens"
    text_strip([*mark, *text_segments(recorded.text, "steered" if fired else "plain")], key="gates_step_text", head=head, height=200)


def _terms(again: Again, gate: GateConfig) -> None:
    """Which of its terms decides."""
    terms = tables.term_rows(again.decision, gate)
    if again.decision is None or terms.empty:
        st.caption("No candidate was scored here, so there is no margin to take apart." if again.decision else plain(f"{again.missing}."))
        return
    least = max(0.0, gate.tau_null - (again.decision.score_null or 0.0))
    st.altair_chart(margin_terms(terms, least), alt="What every candidate's margin is made of")
    st.caption(
        "Bars add up to the margin (tick): the best tick must lie right of the dashed line. Point at a bar for β A, ρ gain and null."
    )


def answer_text(trace: Trace) -> None:
    """The whole steered answer with its steps numbered and its impulses marked."""
    with st.expander("The whole answer, control points numbered, impulses marked"):
        text_strip(trace_segments(trace), key="gates_answer", height=520)
        st.caption(f"{trace.tokens_used} tokens, ended by {trace.finish}. Underlined: decoded while an impulse was live.")


def reproduce(facts: RunFacts, gate: GateConfig, trace: Trace) -> None:
    """The command that decodes this answer again, or all answers with the settings that are tried."""
    changed = replay.changes_of(facts.config.gate, gate)
    if changed:
        command_line(gate_command(facts.run, changed, len(facts.steered)), "Decode all held-out answers with these settings")
    else:
        command_line(trace_command(facts.run, trace.id))
