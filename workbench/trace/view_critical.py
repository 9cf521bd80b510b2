"""The Trace page's last sections: where a recorded wrong answer was lost, what each step decided, and whether the gate acted there."""

import streamlit as st

from stir_core.findings import CriticalTrace
from stir_core.records import Problem, Trace
from stir_core.store.critical import Of
from workbench.shared.command_lines import critical_command
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line
from workbench.shared.view_text import text_strip
from workbench.trace import critical
from workbench.trace.charts import critical_strip, step_strip
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
    st.header("Where was it lost?", anchor=False)
    measured = critical.summaries(facts, wrong)
    of = _choose_answer(list(wrong), next(iter(measured), None), "critical_of")
    summary = measured.get(of)
    if summary is None:
        st.caption(f"The run's {of} answer to this problem is wrong; continuations from every k-th token show where it was lost.")
        command_line(critical_command(facts.run, problem_id, of), "Measure it (an interrupted measurement is resumed)")
        return
    _measured(facts, wrong[of], summary)


def what_steps_decided(facts: RunFacts, request: TraceRequest) -> None:
    """Draw how much each step of a recorded answer to a held-out problem changes which answers follow; nothing for any other prompt."""
    answers = critical.answers_in_steps(facts, request.question.id) if isinstance(request.question, Problem) else {}
    if not answers:
        return
    st.divider()
    st.header("What did each step decide?", anchor=False)
    measured = critical.summaries(facts, answers, "steps")
    of = _choose_answer(list(answers), next(iter(measured), None), "steps_of")
    summary, problem_id = measured.get(of), answers[of].id
    if summary is None:
        st.caption(
            f"Continuations from every step of the run's {of} answer show how much each changes which answers follow (thought anchors)."
        )
        command_line(
            critical_command(facts.run, problem_id, of, at="steps", rolls=16), "Measure it (an interrupted measurement is resumed)"
        )
        return
    st.markdown(plain(critical.steps_sentence(summary)))
    figure = step_strip(critical.importance_table(summary), critical.control_table(summary, answers[of]), len(summary.token_ids))
    alt = f"How much each step of the {of} answer changes which answers follow"
    draw_chart(figure, key="step_strip", alt=alt)
    sampling = facts.config.rollouts
    st.caption(
        plain(
            f"The run's {of} answer. Divergence of the answers of continuations from a step's end from those from its start, with half a "
            f"continuation added to each answer; unsteered, temperature {sampling.temperature:g}, top-p {sampling.top_p:g}. With few "
            "continuations it is above 0 by chance alone: p is the share of random divisions of the same answers that reach it, corrected "
            "(Holm) for the steps. The last step holds the answer and is left out."
        )
    )
    rolls = max(point.rolls for point in summary.points)
    command_line(critical_command(facts.run, problem_id, of, at="steps", rolls=rolls), "Measure it again (finished continuations are kept)")


def _choose_answer(answers: list[Of], measured: Of | None, key: str) -> Of:
    if len(answers) == 1:
        return answers[0]
    return st.segmented_control("Recorded answer", answers, default=measured or answers[0], required=True, key=key)


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
    draw_chart(figure, key="critical_strip", alt=f"Success rate of continuing the {summary.of} answer by token")
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
