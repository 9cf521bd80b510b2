"""The Codebook page's last section: the codes of one answer, step by step, below those of the problem's other rollouts."""

import streamlit as st

from workbench import session
from workbench.codebook import charts
from workbench.codebook import data as tables
from workbench.codebook.data import Book
from workbench.shared.codes import code_segments
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_text import text_strip

_CHART = "codebook_sequences"


def answer_strip(facts: RunFacts, book: Book) -> None:
    """Choose a rollout; draw the codes of its problem's rollouts, and its text with the code of each step."""
    st.header("Codes of an answer", anchor=False)
    answers = tables.coded_answers(facts, book)
    name = session.choose_one(session.CODED, "Rollout (problem#number)", list(answers), width=420)
    answer = answers[name]

    def choose() -> None:
        cells = session.selected_cells(_CHART, charts.SEQUENCE)
        if cells and str(cells[0].get("answer")) in answers:
            session.point_at(session.CODED, str(cells[0]["answer"]))

    left, right = st.columns([1, 1.2], gap="medium")
    with left:
        table = tables.sequence_table(answers, answer.rollout.problem_id)
        draw_chart(charts.sequence_chart(table, name), key=_CHART, on_select=choose, alt="Codes of each rollout of the problem by step")
        st.caption(f"n = {len(set(table['answer']))} rollouts of the problem. Framed: the chosen one. Click a cell to choose its rollout.")
    with right:
        verdict = answer.rollout.verdict
        problem = facts.problems.get(answer.rollout.problem_id)
        if problem:
            st.text(problem.question)
        text_strip(
            code_segments(answer.rows, answer.codes, answer.tail),
            key="codebook_answer",
            height=420,
            head=f"{'Right' if verdict.correct else 'Wrong'}: {len(answer.codes)} finished steps. Point at a label for its step.",
        )
        st.caption(plain(f"{verdict.reason}"))
