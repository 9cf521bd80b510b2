"""The Report page: what the run has for each section, what goes into the file, and the file."""

import pandas as pd
import streamlit as st
from streamlit import column_config as cc

from stir_core.commands.report import SECTIONS
from stir_core.store.saved import run_digest
from workbench import bootstrap
from workbench.report.document import TITLES, Selected, missing_of, report_html
from workbench.report.figures import run_figures
from workbench.shared.command_lines import report_command
from workbench.shared.facts import RunFacts
from workbench.shared.text import one_line
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import Columns, data_table


def choose_and_write(facts: RunFacts) -> None:
    """Sections, actions and saved work to choose from, the button that writes the file, and its command."""
    folder = bootstrap.saved()
    missing = {name: missing_of(facts, name, folder) for name in SECTIONS}
    has = [name for name in SECTIONS if not missing[name]]
    picked = st.pills("Sections", SECTIONS, selection_mode="multi", default=has, format_func=TITLES.__getitem__, key="report_sections")
    names = tuple(name for name in SECTIONS if name in picked)
    left, right = st.columns(2)
    works = {work.id: work for work in folder.all()[0] if work.run_digest == run_digest(facts.run)}
    with left:
        offered = [id_ for id_ in facts.ranked if id_ in facts.shown_set] if not missing["actions"] else []
        help_ = "Their controls, measured effects, promoted tokens and meaning; none: the one committed most, and the first of the basis."
        actions = st.multiselect(
            "Actions", offered, key="report_actions", placeholder="the one committed most, and the first of the basis", help=help_
        )
    with right:
        saved = st.multiselect(
            "Saved work",
            list(works),
            format_func=lambda id_: f"{works[id_].kind} · {one_line(works[id_].title, 50)}",
            key="report_saved",
            placeholder="the latest pieces of this run" if works else "none was made with this run",
        )
    selected = Selected(names, tuple(actions), tuple(saved))
    st.download_button(
        "Report (one HTML file)",
        lambda: report_html(facts, selected, bootstrap.saved()),
        f"{facts.name}-report.html",
        "text/html",
        key="report_html",
        on_click="ignore",
        disabled=not names,
        help="It takes some seconds to draw. Opens offline in any browser; its figures are on white, and print as they are.",
    )
    figures = [figure.section for figure in run_figures(facts, selected.actions)]
    rows = [(TITLES[name], "yes" if name in names else "no", figures.count(name) or None, missing[name] or None) for name in SECTIONS]
    table = pd.DataFrame(rows, columns=["section", "in the file", "figures", "missing"])
    data_table(table, _COLUMNS, "What the run has for each section", key="report_table", height="content")
    command_line(report_command(facts.run, only=names, actions=actions, saved=saved), "The same on the command line")
    st.caption("With `--figures FOLDER` the command writes each figure as SVG and PDF; below every chart of the pages are the same two.")


_COLUMNS: Columns = {
    "section": cc.TextColumn("section", width=190),
    "in the file": cc.TextColumn("in the file", width=70),
    "figures": cc.NumberColumn("figures", width=60, format="%d"),
    "missing": cc.TextColumn("missing", width=640, help="Why there is nothing, and the command that makes it."),
}
