"""One gate decision in detail: the funnel, the reason, and the table of candidates with their fates."""

from collections.abc import Sequence

import streamlit as st
from streamlit import column_config as cc

from stir_core.config import GateConfig
from stir_core.intervene.replay import Again
from stir_core.records import Decision, StepEvidence, StepTrace, Trace
from workbench import session
from workbench.shared import gate_evidence as evidence
from workbench.shared import gate_replay as replay
from workbench.shared.charts import GATE_CELL, margin_heatmap, margin_terms
from workbench.shared.facts import RunFacts
from workbench.shared.gate_replay import NOW, RECORDED, AnswerReplay, StepReplay, funnel_rows, margin_rows, term_rows, why_not_rows
from workbench.shared.text import plain, plural, segment, text_segments
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_tables import Columns, data_table, number_column
from workbench.shared.view_text import text_strip


def why_not(step_evidence: StepEvidence, decision: Decision, gate: GateConfig) -> None:
    """Draw a recorded decision in full; ``gate`` decided it."""
    _decision_in_words(step_evidence, decision, None)
    _candidates(step_evidence, decision, gate, None)


def _decision_in_words(step_evidence: StepEvidence, decision: Decision, again: Again | None) -> None:
    st.markdown(evidence.funnel_line(step_evidence, decision, mark="**"))
    if again is None:
        st.text(str(decision.reason))
        return
    if again.decision is not None:
        st.markdown(f"now {evidence.funnel_line(again.evidence, again.decision, mark='**')}")
    now = again.decision.reason if again.decision else f"not in the recording, needs the model: {again.missing}"
    st.text(f"recorded: {decision.reason}\nnow: {now}")


def _candidates(step_evidence: StepEvidence, decision: Decision, gate: GateConfig, again: Again | None) -> None:
    if step_evidence.retrieved:
        table = why_not_rows(step_evidence, decision, again) if again else evidence.candidate_table(step_evidence, decision)
        data_table(table, CANDIDATE_COLUMNS, "Candidates of this step")
        shown = again.decision if again and again.decision else decision
        st.caption(plain(f"{evidence.score_line(step_evidence, shown, gate)}."))


def sieves_line(steps: list[replay.StepReplay], *, changed: bool) -> None:
    """How many entries each sieve left over these steps, in words: as recorded and, where settings changed, as decided now."""
    table = funnel_rows(steps)
    n = sum(step.change not in ("not asked", "needs the model") for step in steps)
    if not n:
        st.caption("The recording holds no decision of the gate here.")
        return
    for when in (RECORDED, NOW)[: 1 + changed]:
        counts = table[table["when"] == when]
        words = " → ".join(f"{stage} **{entries:,}**" for stage, entries in zip(counts["stage"], counts["entries"], strict=True))
        st.markdown(f"{when.capitalize()}: {words}")
    left_out = sum(step.change == "needs the model" for step in steps)
    more = f"; {left_out} that need the model are left out" if left_out else ""
    st.caption(
        f"Sums over {n} steps at which the gate had something to decide{more}. Each step is decided by itself, on its recorded text."
    )


_GATE_HEATMAP = "gates_heatmap"


def answer_margins(facts: RunFacts, trace: Trace, answer: AnswerReplay, *, changed: bool = False) -> None:
    """Step by candidate margins and the step table of one answer; ``changed`` when it was decided again with other settings."""
    st.header("Where did a candidate beat null?", anchor=False)
    table = margin_rows(answer)
    ids = {str(step.m) for step in trace.steps}
    if table.empty:
        st.caption("No candidate was scored in this answer.")
    else:

        def choose_cell() -> None:
            cells = session.selected_cells(_GATE_HEATMAP, GATE_CELL)
            if cells and str(cells[0].get("m")) in ids:
                session.point_at(session.CONTROL_POINT, str(cells[0]["m"]))
            if cells and cells[0].get("entry") in facts.entries:
                session.point_at(session.ACTION, str(cells[0]["entry"]))

        chart = margin_heatmap(table, len(trace.steps))
        draw_chart(chart, key=_GATE_HEATMAP, on_select=choose_cell, alt="Margins of all scored candidates by control point")
        pale = " Pale: after a flip, so on recorded text only." if any(table["diverged"].tolist()) else ""
        st.caption(
            f"n = {len(table)} scored candidates. Red beats null, blue does not; framed: committed.{pale} "
            "Click a cell to see its step in detail."
        )
    if changed:
        _steps_again(answer)
    with st.expander("Recorded steps as a table", expanded=not changed):
        data_table(evidence.step_table(trace), STEP_COLUMNS, "Steps of the answer")


def _steps_again(answer: AnswerReplay) -> None:
    rows = replay.step_rows(answer)
    diverged = [step.diverged for step in answer.steps]
    grey = rows.style.apply(lambda row: ["color: #8a8f98" if diverged[int(row.name)] else ""] * len(row), axis=1).format(
        "{:+.3f}", subset=["margin"], na_rep=""
    )
    st.dataframe(grey, hide_index=True, placeholder="", column_config=FLIPPED_COLUMNS, alt="Steps of the answer, decided again")


def choose_gate_step(trace: Trace, ids: Sequence[str] = ()) -> StepTrace | None:
    """The step to show in detail; arrow keys go through steps, and with Shift through the answers ``ids``."""
    numbers = [str(step.m) for step in trace.steps]
    if not numbers:
        st.caption("This answer has no steps.")
        return None
    steered = [str(step.m) for step in trace.steps if step.decision.chosen]
    retrieved = [str(step.m) for step in trace.steps if step.evidence.retrieved]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = session.choose_short(session.CONTROL_POINT, "Control point m", numbers, first=[*steered, *retrieved, *numbers][0])
        arrow_button("Previous step", session.CONTROL_POINT, numbers, chosen, -1, name="gates_previous_step")
        arrow_button("Next step", session.CONTROL_POINT, numbers, chosen, +1, name="gates_next_step")
        if trace.id in ids:
            arrow_button("Previous answer", session.PROBLEM, ids, trace.id, -1, name="gates_previous_answer")
            arrow_button("Next answer", session.PROBLEM, ids, trace.id, +1, name="gates_next_answer")
    return next(step for step in trace.steps if step.m == int(chosen))


def arrow_button(label: str, key: str, options: Sequence[str], now: str, by: int, *, name: str) -> None:
    """A button, and an arrow key, that chooses a neighbour of the option ``now``.

    Args:
        key: session key of the choice.
        by: -1 for the option before, 1 for the one after.
        name: key of the button's widget.
    """
    place = options.index(now) + by
    arrow = "Left" if by < 0 else "Right"
    st.button(
        label,
        key=name,
        shortcut=arrow if key == session.CONTROL_POINT else f"Shift+{arrow}",
        disabled=not 0 <= place < len(options),
        on_click=session.point_at,
        args=(key, options[min(max(place, 0), len(options) - 1)]),
    )


def step_detail(gate: GateConfig, step: StepReplay | None, *, changed: bool = False) -> None:
    """One step: the reason beside the terms of every candidate's margin, and below them every candidate's numbers and fate."""
    if step is None:
        return
    recorded, again = step.step, step.again
    if changed:
        colour = "red" if step.flips else "gray"
        st.badge(f"control point {recorded.m}: {step.change} · {step.standing}", color=colour)
    left, right = st.columns(2, gap="medium")
    with left:
        st.header("Why this decision?", anchor=False)
        _decision_in_words(recorded.evidence, recorded.decision, again if changed else None)
        fired = recorded.decision.chosen
        mark = [segment(f"⟦{fired} × {recorded.decision.alpha:.2f}⟧ ", "mark")] if fired else []
        tokens = f"{plural(len(recorded.token_ids), 'token')}, {plural(recorded.probe_tokens, 'probe token')}"
        head = f"step after control point {recorded.m}: {tokens}"
        text_strip([*mark, *text_segments(recorded.text, "steered" if fired else "plain")], key="gates_step_text", head=head, height=200)
    with right:
        st.header("What made up the margin?", anchor=False)
        _terms(again, gate)
    _candidates(recorded.evidence, recorded.decision, gate, again if changed else None)


def _terms(again: Again, gate: GateConfig) -> None:
    """The terms of every candidate's margin."""
    terms = term_rows(again.decision, gate)
    if again.decision is None or terms.empty:
        st.caption("No candidate was scored here, so there is no margin." if again.decision else plain(f"{again.missing}."))
        return
    least = max(0.0, gate.tau_null - (again.decision.score_null or 0.0))
    draw_chart(margin_terms(terms, least), key="gates_terms", alt="Terms of every candidate's margin")
    st.caption(
        "Bars add up to the margin (tick); the best tick must lie right of the dashed line to be committed. Point at a bar for its numbers."
    )


STEP_COLUMNS: Columns = {
    "m": number_column("m", "%d", "Control point: finished steps.", width=40),
    "library": number_column("library", "%d", "Entries at this control point.", width=58),
    "retrieved": number_column("retr.", "%d", "Nearest entries retrieved.", width=50),
    "candidates": number_column("cand.", "%d", "Corrective candidates scored: the L best by value.", width=50),
    "chosen": cc.TextColumn("decision", width=76),
    "best score": number_column("best", "%.3f", "Best candidate's score.", width=60),
    "null score": number_column("null", "%.3f", "Score of null: no impulse.", width=60),
    "margin": number_column("margin", "%+.3f", "Best score minus null score.", width=66),
    "alpha": number_column("alpha", "%.2f", "Injected multiple of the action; 0 when null won.", width=56),
    "tokens": number_column("tokens", "%d", "Committed tokens of this step.", width=58),
    "probe": number_column("probe", "%d", "Preview tokens before this step.", width=54),
    "reason": cc.TextColumn("reason", width="large"),
}


CANDIDATE_COLUMNS: Columns = {
    "entry": cc.TextColumn("entry", width=72, pinned=True),
    "kind": cc.TextColumn("kind", width=80),
    "layer": number_column("layer", "%d", "Block whose output is compared and changed.", width=50),
    "cosine": number_column("cosine", "%.3f", "Cosine of state and key: the retrieval similarity s.", width=64),
    "quality": number_column("quality", "%.3f", "Reward gap q of the entry.", width=64),
    "value": number_column("A = s·q", "%.3f", "Retrieval value.", width=66),
    "logprob": number_column(
        "preview", "%.3f", "Mean log-probability of the preview tokens (nats per token); empty when not previewed to its end.", width=70
    ),
    "gain": number_column("gain", "%+.3f", "Preview log-probability minus that of the unsteered preview (nats per token).", width=66),
    "score": number_column("score", "%.3f", "beta * A + rho * gain; empty when not previewed to its end.", width=62),
    "margin": number_column("margin", "%+.3f", "Score minus null score: positive beats null.", width=66),
    "fate": cc.TextColumn("fate", width="medium"),
    "score now": number_column("score now", "%.3f", "With the settings that are tried.", width=72),
    "margin now": number_column("margin now", "%+.3f", "With the settings that are tried.", width=80),
    "fate now": cc.TextColumn("fate now", width="medium", help="With the settings that are tried."),
}


FLIPPED_COLUMNS: Columns = {
    "problem": cc.TextColumn("problem", width=230, pinned=True),
    "m": number_column("m", "%d", "The first control point that is decided otherwise, or needs the model.", width=40),
    "change": cc.TextColumn(
        "change",
        width=110,
        help="Other strength: the same action is committed, so it is not counted as a flip; the text after it may differ.",
    ),
    "recorded": cc.TextColumn("recorded", width=106),
    "now": cc.TextColumn("now", width=106, help="With the settings that are tried; ?: not in the recording."),
    "later": number_column("later", "%d", "Gate decisions after it; they hold for the recorded text only.", width=50),
    "standing": cc.TextColumn("standing", width=170, help="How far the new decision can be trusted."),
    "margin": number_column("margin", "%+.3f", "Best score minus null score, with the settings that are tried.", width=66),
    "why now": cc.TextColumn("why now", width="large"),
}
