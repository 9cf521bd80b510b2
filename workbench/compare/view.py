"""The Compare page's pieces: the other library, shared entries, overlap of the spans, settings, and evaluations side by side."""

from typing import NamedTuple

import pandas as pd
import streamlit as st
from streamlit import column_config as cc

from stir_core.store.curation import Curation
from stir_core.store.libraries import LIBRARY_KINDS, made_of
from workbench import session
from workbench.bootstrap import known_evaluations, known_runs
from workbench.compare import data as compare
from workbench.compare.charts import match_histogram, principal_angles
from workbench.compare.data import LibraryComparison
from workbench.compare.several import settings_table
from workbench.shared.command_lines import compare_command
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line, need_entries
from workbench.shared.view_tables import ACTION_COLUMNS, Columns, data_table, entry_table, number_column


class Chosen(NamedTuple):
    """The compared libraries, the cosine from which two entries match, and how they are paired."""

    libraries: LibraryComparison
    by: str
    at_least: float
    assign: bool


def two_libraries(facts: RunFacts) -> None:
    """Choose two libraries; draw what they share, and their runs' evaluations and settings."""
    need_entries(facts)
    chosen = need_other(facts)
    shared_view(chosen)
    evaluated(chosen)
    settings(chosen)
    as_command(chosen)


def need_other(facts: RunFacts) -> Chosen:
    """Choose the other library and compare; stops the page with one line where the two cannot be compared."""
    runs = known_runs().runs
    others = [name for name, other in runs.items() if other.run.path != facts.run.path and not other.run.results_only]
    alike = [name for name in others if compare.comparison_refusal(facts, runs[name]) is None]  # offered first
    own = next(name for name, each in runs.items() if each.run.path == facts.run.path)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        version = session.choose_short(
            session.VERSION,
            f"Library of {own}",
            LIBRARY_KINDS,
            first="basis",
            help="Control basis, all mined entries, the basis as curated, or the entries that codes of steps make.",
        )
        options = list(dict.fromkeys([*alike, own, *others]))
        name = session.choose_one(session.COMPARED, "With run", options, width=260, help="Another run of the same model, or this one.")
        theirs = session.choose_short(session.COMPARED_VERSION, "its library", LIBRARY_KINDS, first="basis" if alike else "all")
        by = st.segmented_control("By", compare.BY, default="actions", key="compare_by", required=True) or "actions"
        at_least = st.slider("Same from cosine", 0.0, 1.0, 0.7, 0.01, key="compare_cosine", width=200)
        assign = st.toggle(
            "Assignment",
            key="compare_assign",
            help="Pair by the assignment with the largest sum of cosines instead of mutual nearest neighbours.",
        )
    other = runs[name]
    if refused := compare.comparison_refusal(facts, other):
        st.error(plain(refused))
        st.stop()
    for side, needed in ((facts, version), (other, theirs)):
        for stage in made_of(needed):
            side.run.folder(stage)
    prints = tuple((run_fingerprint(side.run), used, _digest(side, used)) for side, used in ((facts, version), (other, theirs)))
    if (name, theirs) == (own, version):
        st.info("Both sides are the same library. Choose another run, or another version of this one (all, curated).")
    return Chosen(_compared(prints, by, facts, version, other, theirs), by, at_least, assign)


def _digest(facts: RunFacts, version: str) -> str:
    return Curation.open(facts.run).digest if version == "curated" else ""


@st.cache_resource(max_entries=8, show_spinner=False)
def _compared(prints: tuple, by: str, _one: RunFacts, version: str, _other: RunFacts, theirs: str) -> LibraryComparison:
    return compare.compare_libraries(compare.library_side(_one, version, by), compare.library_side(_other, theirs, by))


def shared_view(chosen: Chosen) -> None:
    """Counts, the histogram of best cosines, and how far the spans agree."""
    libraries = chosen.libraries
    entries = compare.shared_entries(libraries, chosen.at_least, assign=chosen.assign)
    if not libraries.one.entries or not libraries.other.entries:
        st.info("One of the two libraries is empty, so there is nothing to compare.")
        return
    n, k = len(libraries.one.entries), len(libraries.other.entries)
    for column, (name, count, of) in zip(
        st.columns(4),
        (
            ("Shared", len(entries.shared), f"of {n} and {k}"),
            ("Lost", len(entries.lost), "only here"),
            ("Gained", len(entries.gained), "only there"),
        ),
        strict=False,
    ):
        column.metric(name, count, of, delta_color="off", delta_arrow="off")
    left, right = st.columns([1.2, 1])
    with left:
        draw_chart(
            match_histogram(compare.cosine_table(libraries), chosen.at_least, libraries.by_chance),
            key="compare_histogram",
            alt="Cosine of every entry with the nearest of the other library",
        )
        chance = f"; random directions reach {libraries.by_chance:.2f}" if libraries.by_chance is not None else ""
        st.caption(f"Same control point and layer only{chance}. Grey: a baseline, the other library shifted by one control point.")
    with right:
        if libraries.spans is not None:
            draw_chart(
                principal_angles(compare.angle_table(libraries.spans), libraries.spans.by_chance),
                key="compare_angles",
                alt="Principal angles between the two spans",
            )
            a, b = libraries.spans.dimensions
            st.caption(
                f"Leading directions that hold 90 % of each library ({a} and {b}): "
                f"overlap {libraries.spans.overlap:.2f}, by chance {libraries.spans.by_chance:.2f}."
            )
    _tables(entries)


def _tables(entries: compare.SharedEntries) -> None:
    st.markdown("**Shared** — this library's entry beside its counterpart (′)")
    _table(entries.shared, "shared", "No two entries match at this cosine.")
    left, right = st.columns(2)
    with left:
        st.markdown("**Lost** — only in this library")
        _table(entries.lost, "lost", "None: every entry has a counterpart.")
    with right:
        st.markdown("**Gained** — only in the other library")
        _table(entries.gained, "gained", "None: every entry has a counterpart.", chooses=False)


def _table(table: pd.DataFrame, name: str, empty: str, *, chooses: bool = True) -> None:
    if table.empty:
        st.caption(empty)
        return
    measured, height = table.dropna(axis="columns", how="all"), min(300, 38 + 35 * len(table))
    draw = entry_table if chooses else data_table
    draw(measured, _COLUMNS, key=f"compare_{name}", alt=name.capitalize(), height=height)
    st.caption(f"n = {len(table)}")


_COLUMNS: Columns = ACTION_COLUMNS | {
    "other": cc.TextColumn("entry ′", width=76, help="Its counterpart in the other library."),
    "cosine": number_column("cosine", "%.3f", "Cosine of the raw vectors."),
    "quality": number_column("quality", "%.3f", "Reward gap, or the measured value that retrieval uses."),
    "quality '": number_column("quality ′", "%.3f", "The counterpart's."),
    "controls '": cc.TextColumn("controls ′"),
    "advantage '": number_column("advantage ′", "%+.3f", "The counterpart's."),
    "problem '": cc.TextColumn("problem ′"),
    "nearest there": number_column(
        "nearest there", "%.3f", "Largest cosine with an entry of the other library at the same control point and layer; empty: none there."
    ),
}


def settings(chosen: Chosen) -> None:
    """Settings in which the two runs differ."""
    one, other = chosen.libraries.one.facts, chosen.libraries.other.facts
    st.header("Settings that differ", anchor=False)
    table = settings_table({"this run": one.config, "other run": other.config})
    if table.empty:
        st.caption("None: both were made with the same settings.")
    else:
        data_table(table, {}, "Settings that differ")


def evaluated(chosen: Chosen) -> None:
    """Evaluations of both runs on the problems that both asked: paired differences with intervals."""
    one, other = chosen.libraries.one.facts, chosen.libraries.other.facts
    st.header("Evaluations on the same problems", anchor=False)
    mine, theirs = known_evaluations(one), known_evaluations(other)
    if one.run.path == other.run.path:
        st.caption("Both are one run: compare its libraries on the Evaluate page.")
        return
    pairs = compare.comparable(mine, theirs)
    if not pairs:
        st.caption("No evaluation of one run shares a problem with an evaluation of the other.")
        return
    a, b = pairs[st.selectbox("Evaluation", list(pairs), key="compare_evaluation", width=320)]
    table = compare.evaluation_table(mine[a], theirs[b])
    if table.empty:
        st.caption("No method was evaluated in both.")
        return
    data_table(table, _EVALUATION_COLUMNS, "Methods in both runs, paired by problem")
    st.caption("Other run minus this run, in percentage points, paired by problem; Tango's 95 % score interval; exact McNemar.")


_EVALUATION_COLUMNS: Columns = {
    "n": number_column("n", "%d", "Problems that both answered."),
    "this run": number_column("this run", "%.1f", "Right answers in percent."),
    "other run": number_column("other run", "%.1f", "Right answers in percent."),
    "difference": number_column("difference", "%+.1f", "Other run minus this run, in percentage points."),
    "p": number_column("p", "%.3f", "Exact McNemar; empty where answers were repeated."),
    "p holm": number_column("p (Holm)", "%.3f", "The same, corrected for having compared several methods."),
    "method": cc.TextColumn("method", width=220),
    "difference 95 %": cc.TextColumn("95 %"),
}


def as_command(chosen: Chosen) -> None:
    """The comparison as a command."""
    one, other = chosen.libraries.one, chosen.libraries.other
    command_line(
        compare_command(one.facts.run, one.version, other.facts.run, other.version, chosen.at_least, by=chosen.by, assign=chosen.assign)
    )
