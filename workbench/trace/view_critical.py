"""The Trace page's last section: where a recorded wrong answer was lost, and whether the gate acted there."""

import streamlit as st

from stir_core.findings import CriticalTrace
from stir_core.records import Problem, Trace
from stir_core.store.critical import Of
from workbench.shared.command_lines import critical_command
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.view_page import command_line
from workbench.shared.view_text import text_strip
from workbench.trace import critical
from workbench.trace.charts import critical_strip
from workbench.trace.view_form import TraceRequest


def where_lost(facts: RunFacts, request: TraceRequest) -> None:
    """Draw the section for a held-out problem that the run answered wrongly; draw nothing for any other prompt."""
    if not isinstance(request.question, Problem):
        return
    problem_id = request.question.id
    wrong = critical.wrong_answers(facts, problem_id)
    if not wrong:
        return
    st.divider()
    st.markdown("**Where was it lost?**")
    measured = critical.summaries(facts, wrong)
    of = _choose_answer(list(wrong), next(iter(measured), None))
    summary = measured.get(of)
    if summary is None:
        st.caption(f"The run's {of} answer to this problem is wrong; continuations from every k-th token show where it was lost.")
        command_line(critical_command(facts.run, problem_id, of), "Measure it (an interrupted measurement is resumed)")
        return
    _measured(facts, wrong[of], summary)


def _choose_answer(wrong: list[Of], measured: Of | None) -> Of:
    if len(wrong) == 1:
        return wrong[0]
    return st.segmented_control(
        "Recorded answer",
        wrong,
        default=measured or wrong[0],
        required=True,
        key="critical_of",
        help="Both of the run's answers are wrong.",
    )


def _measured(facts: RunFacts, trace: Trace, summary: CriticalTrace) -> None:
    st.markdown(plain(critical.sentence(summary)))
    loss = critical.loss_of(summary)
    lost = (loss.before.position, loss.after.position) if loss else None
    figure = critical_strip(
        critical.rate_table(summary),
        critical.control_table(summary, trace),
        len(summary.token_ids),
        lost,
        loss.label if loss else "",
    )
    st.plotly_chart(
        figure, key="critical_strip", config={"displayModeBar": False}, alt=f"Success rate of continuing the {summary.of} answer by token"
    )
    st.caption(plain(f"The run's {summary.of} answer. {critical.rates_note(facts, trace, summary)}"))
    if summary.pieces:
        head = (
            "Blue: share of right continuations from where a piece begins. ◆ the gate acted, ◇ it did not. Point at a piece for its rate."
        )
        text_strip(critical.critical_segments(summary, trace), key="critical_text", head=head, height=320, shaded=True)
    command = critical_command(facts.run, trace.id, summary.of, every=summary.every, rolls=max(point.rolls for point in summary.points))
    command_line(
        command,
        "Measure it again (finished continuations are kept)"
        if summary.pieces
        else "Measured by an older version, without texts: run it again",
    )
