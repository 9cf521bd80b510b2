"""The Compare page's second tab: any number of runs on the same problems, with their answers to one problem beside each other."""

import streamlit as st
from streamlit import column_config as cc

from workbench import session
from workbench.bootstrap import known_evaluations, known_runs
from workbench.compare import several
from workbench.shared.command_lines import answers_python
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain, segment
from workbench.shared.view_tables import Columns, data_table, number_column
from workbench.shared.view_text import text_strip


def several_runs(facts: RunFacts) -> None:
    """Choose runs; draw their accuracies on common problems, the settings that differ, and one problem's answers with differences."""
    runs = known_runs().runs
    own = next(name for name, each in runs.items() if each.run.path == facts.run.path)
    alike = [name for name, each in runs.items() if name == own or each.config.task.name == facts.config.task.name]
    taken = session.choose_several(session.SEVERAL, "Runs", list(runs), first=alike)
    chosen = {name: runs[name] for name in dict.fromkeys([*(name for name in taken if name == own), *taken])}
    if len(chosen) < 2:
        st.info("Choose two or more runs that answered the same problems: each is compared with the first.")
        return
    evaluations = {name: known_evaluations(each) for name, each in chosen.items()}
    offered = several.common_sources((each, evaluations[name]) for name, each in chosen.items())
    if not offered:
        st.info("These runs have no answers of one kind in common: no held-out answers, and no evaluation of one label and method.")
    else:
        source = session.choose_one(session.SOURCE, "Answers", offered, width=320)
        answers = {name: several.answers_of(each, evaluations[name], source) for name, each in chosen.items()}
        _answers(chosen, answers, source)
    st.header("Settings that differ", anchor=False)
    table = several.settings_table({name: each.config for name, each in chosen.items()})
    if table.empty:
        st.caption("None: all were made with the same settings.")
    else:
        data_table(table, {}, "Settings that differ")


def _answers(chosen: dict[str, RunFacts], answers: dict[str, several.RunAnswers], source: str) -> None:
    shared = several.common_problems(answers.values())
    if not shared:
        st.info("No problem was answered by all of these runs in the same words.")
        return
    first = next(iter(answers))
    accuracies = several.runs_accuracy(answers)
    if not accuracies.empty:
        data_table(accuracies, _ACCURACY_COLUMNS, "Right answers of each run on the common problems")
    st.caption(
        plain(
            f"{len(shared)} problems in common. Differences from {first} in points, paired by problem; Tango's 95 % score interval; exact "
            "McNemar, Holm over the runs."
        )
    )
    table = several.verdict_table(answers)
    rights = {name: cc.CheckboxColumn(name, help="Whether its answer was right; empty: not graded.") for name in answers}

    def choose_row(row: int) -> None:
        session.point_at(session.ANSWERED, str(table["problem"].iloc[row]))

    styles, height = _PROBLEM_COLUMNS | rights, min(300, 38 + 35 * len(table))
    data_table(table, styles, "Common problems", key="compare_problems", height=height, clicked=choose_row)
    id_ = session.choose_one(session.ANSWERED, "Problem", table["problem"].tolist(), width=420)
    problem = answers[first][id_].problem
    st.text(problem.question)
    st.caption(plain(f"gold {problem.answer}. Shaded: words that {first}'s answer does not have there; [−]: words that only it has."))
    for start in range(0, len(answers), 3):
        names = list(answers)[start : start + 3]
        for column, name in zip(st.columns(min(3, len(answers)), gap="medium"), names, strict=False):
            each = answers[name][id_]
            with column:
                with st.container(horizontal=True, vertical_alignment="center"):
                    st.header(plain(name), anchor=False)
                    grade = {None: "not graded", True: "right", False: "wrong"}[each.verdict and each.verdict.correct]
                    st.badge(grade, color="green" if grade == "right" else "gray")
                pieces = [segment(each.text)] if name == first else several.difference_segments(each.text, answers[first][id_].text)
                text_strip(pieces, key=f"compare_text_{name}", height=360, shaded=True)
    st.caption("These answers in Python")
    st.code(answers_python([each.run for each in chosen.values()], source, id_), language="python")


_ACCURACY_COLUMNS: Columns = {
    "run": cc.TextColumn("run", pinned=True, width=160),
    "n": number_column("n", "%d", "Problems that all answered and had graded."),
    "right": number_column("right", "%d", "Right answers."),
    "accuracy": number_column("accuracy", "%.1f", "Right answers in percent."),
    "accuracy 95 %": cc.TextColumn("95 %", help="Wilson's interval."),
    "difference": number_column("difference", "%+.1f", "From the first run, in percentage points, paired by problem."),
    "difference 95 %": cc.TextColumn("95 %", help="Tango's score interval."),
    "p": number_column("p", "%.3f", "Exact McNemar."),
    "p holm": number_column("p (Holm)", "%.3f", "Corrected for the number of runs."),
}
_PROBLEM_COLUMNS: Columns = {
    "problem": cc.TextColumn("problem", pinned=True, width=240),
    "same text": cc.CheckboxColumn("same text", help="Whether all answers are equal to the letter."),
}
