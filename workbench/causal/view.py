"""The Causal page's sections: the two answers, effects of arms and of actions, and the gate's predictions against them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st
from streamlit import column_config as cc

from stir_core.evaluate.causal_text import causal_markdown
from workbench import session
from workbench.bootstrap import PAGES
from workbench.causal import charts as figures
from workbench.causal import data as evidence
from workbench.causal.data import Study
from workbench.shared import view_card as action_card
from workbench.shared.charts import ROW, forest
from workbench.shared.command_lines import causal_command
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart, gate_map, points_chart
from workbench.shared.view_page import command_line, report_downloads
from workbench.shared.view_tables import ADVANTAGE_HELP, Columns, data_table, number_column

_ADVANTAGE = "advantage (share of right answers, first minus second)"
_TALLEST = 560


def need_study(facts: RunFacts) -> Study:
    """The run's causal study. If there is none, shows the command that makes one and stops the page."""
    study = evidence.study_of(facts.run)
    if study is None:
        st.info(plain(f"The actions of run {facts.name} have not been measured causally yet."))
        command_line(
            causal_command(facts.run), "Measure them: continuations with an action, without it, and with noise (resumes if interrupted)"
        )
        _own_command(facts)
        st.stop()
    return study


def own(facts: RunFacts) -> None:
    """Can an impulse help at all? The verdict of the study ``own`` with its arms; nothing where it was not made."""
    study = evidence.study_of(facts.run, "own")
    if study is None:
        return
    reading = evidence.own_reading(study.report)
    st.markdown(f"**Can an impulse help at all? {plain(reading.answer)}** {plain(reading.figures)}")
    st.caption(plain(evidence.study_line(study.report)))
    _warnings(facts, study)
    table = evidence.arm_table(study.report)
    if not table.empty:
        draw_chart(forest(table, _ADVANTAGE), key="causal_own", alt="Effect of each arm, with 95 % intervals")
        data_table(table.reindex(columns=list(OWN_COLUMNS)), OWN_COLUMNS, "Arms of the study")
    for line in evidence.bias_lines(study.report):
        st.caption(plain(line))
    report_downloads(causal_markdown(study.report), study.report, f"{facts.name}_causal_own", "causal_own")
    st.divider()


def study_head(facts: RunFacts, study: Study) -> None:
    """The two main answers, the settings, warnings, and notes on the statistics."""
    report = study.report
    for question, reading in (
        ("Does the gate's margin predict the effect?", evidence.gate_reading(report)),
        ("Do the committed actions help?", evidence.choice_reading(report)),
    ):
        st.markdown(f"**{question} {plain(reading.answer)}** {plain(reading.figures)}")
    st.caption(plain(evidence.study_line(report)))
    _warnings(facts, study)
    with st.expander("Notes on the statistics"):
        for line in evidence.bias_lines(report):
            st.markdown(plain(line))


def _warnings(facts: RunFacts, study: Study) -> None:
    for line in evidence.study_warnings(study.report, facts.basis_digest, ended=study.ended):
        st.warning(plain(line))


def arms(study: Study) -> None:
    """Effects of whole arms against each other."""
    st.header("Arms against each other", anchor=False)
    table = evidence.arm_table(study.report)
    if table.empty:
        st.caption("No state has been measured under two arms yet.")
        return
    draw_chart(forest(table, _ADVANTAGE), key="causal_arms", alt="Advantage of each arm, with 95 % intervals")
    _effects(table, "Arms against each other")


def actions(facts: RunFacts, study: Study) -> None:
    """The effect of each action against null; a click chooses the action on every page."""
    st.header("Actions against null", anchor=False)
    table = evidence.advantage_table(study.report)
    if table.empty:
        st.caption("No action has been measured yet.")
        return
    entry = None if facts.run.results_only else action_card.choose_entry(facts, width=220)
    figure = forest(table, "advantage (share of right answers with the action minus without)", entry.id if entry else None)
    tall = ROW * len(table) > _TALLEST
    with st.container(height=_TALLEST if tall else "content", border=tall):
        points_chart(figure, _chooses(facts), key="causal_actions", alt="Advantage of each action, with 95 % intervals")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in table["verdict"].value_counts().items())
    click = " Ring: the chosen action. Click a mark to choose its action." if entry else ""
    st.caption(f"n = {len(table)} actions: {counts}, Holm-corrected.{click}")
    with st.expander("As a table"):
        _effects(table, "Measured actions")
    if entry is None:
        return
    measured = next((action for action in study.report.actions if action.entry_id == entry.id), None)
    st.markdown(f"**{plain(entry.id)}**" + ("" if measured else " was not tried in this study."))
    action_card.advantage(measured)
    st.page_link(PAGES / "actions.py", label="Open its card")


def gate(facts: RunFacts, study: Study) -> None:
    """The gate's predictors of a candidate against its measured effect."""
    st.header("Predictions of the gate against measured effects", anchor=False)
    report = study.report
    if not report.points:
        st.caption("No candidate has been measured yet.")
        return
    left, right = st.columns(2, gap="medium")
    with left:
        bins = evidence.calibration_table(report)
        draw_chart(figures.calibration_chart(bins), key="causal_bins", alt="Measured advantage by predicted margin")
        st.caption(
            f"n = {len(report.points)} candidates in {len(bins)} bins of similar margin. They rise if the margin predicts the effect."
        )
    with right:
        curves = evidence.roc_table(report)
        if curves.empty:
            st.caption("No ROC curve: no candidate did better than null, or none did worse.")
        else:
            draw_chart(figures.roc(curves), key="causal_roc", alt="ROC curve of each predictor")
            st.caption("Helpful (better than null) against harmful (worse) candidates; ties are left out. Legend: area under the curve.")
    data_table(evidence.predictor_table(report), PREDICTOR_COLUMNS, "Predictors of the advantage")
    gate_map(
        evidence.point_table(report),
        partial(figures.advantage_map, chosen=session.chosen(session.ACTION)),
        _chooses(facts),
        what="candidates",
        text="Red did better than null, blue worse, pale the same. Diamonds: chosen by the gate. Click to choose an action.",
        key="causal_map",
        alt="Candidates by preview gain and margin, coloured by measured advantage",
    )


def study_downloads(facts: RunFacts, study: Study) -> None:
    """The command that makes the study, and its report as files."""
    report = study.report
    command_line(report.spec.command or causal_command(facts.run), "Reproduce on the command line (existing continuations are kept)")
    report_downloads(causal_markdown(report), report, f"{facts.name}_causal", "causal")
    _own_command(facts)


def _own_command(facts: RunFacts) -> None:
    if evidence.study_of(facts.run, "own") is None:
        command_line(causal_command(facts.run, "own"), "Can an impulse help at all? A problem's own action at its own undecided states")


def _chooses(facts: RunFacts) -> Callable[[list[Any]], None]:
    """A callback that chooses the entry of a clicked point on every page."""

    def choose(data: list[Any]) -> None:
        if not facts.run.results_only and data[0] in facts.entries:
            session.point_at(session.ACTION, data[0])

    return choose


def _effects(table: pd.DataFrame, alt: str) -> None:
    data_table(table.reindex(columns=list(EFFECT_COLUMNS)), EFFECT_COLUMNS, alt)


EFFECT_COLUMNS: Columns = {
    "name": cc.TextColumn("comparison", pinned=True, width=210),
    "advantage": cc.TextColumn("advantage [95 %]", help=ADVANTAGE_HELP, width=232),
    "verdict": cc.TextColumn(
        "effect",
        help='By p, for actions corrected (Holm). "no effect seen" does not mean "no effect"; "cannot tell": fewer than eight problems.',
        width=104,
    ),
    "won": number_column("won", "%d", "Pairs of continuations in which only the first arm was right.", width=44),
    "lost": number_column("lost", "%d", "Pairs in which only the second arm was right.", width=44),
    "p": number_column("p", "%.3f", "Score test over pairs, with problems as clusters; empty: too few problems.", width=52),
    "p holm": number_column(
        "p (Holm)", "%.3f", "Corrected for the number of actions; of arms only where each is compared with null.", width=68
    ),
    "tokens": cc.TextColumn("tokens [95 %]", help="Tokens of the whole answer, first arm minus second.", width=222),
    "problems": number_column("problems", "%d", "Problems of these states: the clusters of the intervals.", width=64),
    "states": number_column("states", "%d", "Control points that have both arms.", width=52),
    "pairs": number_column("pairs", "%d", "Pairs of continuations from the same random stream, one in each arm.", width=48),
}


OWN_COLUMNS: Columns = {
    "name": EFFECT_COLUMNS["name"],
    "right": cc.TextColumn("right [95 %]", help="Share of right answers under the first arm, with problems as clusters.", width=150),
    "right against": cc.TextColumn("of the other [95 %]", help="Under the second arm.", width=150),
    **{name: EFFECT_COLUMNS[name] for name in ("advantage", "verdict", "won", "lost", "p", "p holm", "problems", "states", "pairs")},
}
PREDICTOR_COLUMNS: Columns = {
    "predictor": cc.TextColumn("predictor", help="A quantity that the gate has of a candidate before it decides.", width=110),
    "spearman": number_column("rank corr.", "%+.2f", "Spearman's correlation with the measured advantage.", width=78),
    "95 %": cc.TextColumn("95 %", help="Jackknife over problems.", width=106),
    "auc": number_column("ROC area", "%.2f", "Probability that a helpful candidate ranks above a harmful one; 0.5 is chance.", width=72),
    "helps": number_column("helps", "%d", "Candidates that did better than null.", width=52),
    "harms": number_column("harms", "%d", "Candidates that did worse than null; ties are in neither count.", width=52),
    "points": number_column("points", "%d", "Candidates at a state.", width=52),
}
