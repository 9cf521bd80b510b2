"""The Trace page's look back: where a recorded wrong answer was lost, and whether the gate acted there."""

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
    """Drawn for a held-out problem that the run answered wrongly; nothing was lost in a right answer, and nothing is drawn."""
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
    found = measured.get(of)
    if found is None:
        st.caption(f"The run's {of} answer to this problem is wrong; continuing it from every k-th token shows where it was lost.")
        command_line(critical_command(facts.run, problem_id, of), "Measure it (goes on where it stopped)")
        return
    _measured(facts, wrong[of], found)


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


def _measured(facts: RunFacts, trace: Trace, found: CriticalTrace) -> None:
    st.markdown(plain(critical.sentence(found)))
    loss = critical.loss_of(found)
    lost = (loss.before.position, loss.after.position) if loss else None
    figure = critical_strip(
        critical.rate_table(found),
        critical.control_table(found, trace),
        len(found.token_ids),
        lost,
        loss.label if loss else "",
    )
    st.plotly_chart(
        figure, key="critical_strip", config={"displayModeBar": False}, alt=f"Success rate of continuing the {found.of} answer by token"
    )
    st.caption(plain(f"The run's {found.of} answer. {critical.rates_note(facts, trace, found)}"))
    if found.pieces:
        head = (
            "Blue: share of right continuations from where a piece begins. ◆ the gate acted, ◇ it did not. Point at a piece for its rate."
        )
        text_strip(critical.critical_segments(found, trace), key="critical_text", head=head, height=320, shaded=True)
    command = critical_command(facts.run, trace.id, found.of, every=found.every, rolls=max(point.rolls for point in found.points))
    command_line(command, "Measure it again (what is there is kept)" if found.pieces else "Measured before texts were kept: call it again")
