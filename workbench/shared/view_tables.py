"""Tables that several pages draw: column styles, a table with one row per entry, and pages of large ones."""

from collections.abc import Callable, Sequence
from typing import Literal

import pandas as pd
import streamlit as st
from streamlit import column_config as cc
from streamlit.elements.lib.column_types import ColumnConfig

from workbench import session
from workbench.shared.confounds import HELP
from workbench.shared.entries import action_table
from workbench.shared.facts import MOST_SHOWN, RunFacts, run_fingerprint

Columns = dict[str, ColumnConfig]
"""Styles of a table's columns by name."""


def number_column(label: str, form: str, text: str, width: int | None = None) -> ColumnConfig:
    """A column of numbers: heading, format, help text."""
    return cc.NumberColumn(label, format=form, help=text, width=width)


ADVANTAGE_HELP = (
    "Measured causal value: share of right answers with the action minus without it, from the same states and random streams. "
    "Empty: no causal study tried it."
)

ACTION_COLUMNS: Columns = {
    "entry": cc.TextColumn("entry", help="Pair number and c (corrective) or n (null).", pinned=True, width=72),
    "kind": cc.TextColumn("kind", help="A corrective entry carries an action; a null entry only competes against it."),
    "m": number_column("m", "%d", "Control point: finished steps at the state that was mined.", width=44),
    "layer": number_column("layer", "%d", "0-based block whose output (blocks.L.hook_out) key and action live in.", width=54),
    "quality": number_column("quality", "%.3f", "Mean reward of the positives minus mean reward of the negatives.", width=70),
    "reward+": number_column("R+", "%.3f", "Mean reward of the positives: correct minus the length penalty.", width=66),
    "reward-": number_column("R−", "%.3f", "Mean reward of the negatives.", width=66),
    "n+": number_column("n+", "%d", "Right answers averaged.", width=44),
    "n-": number_column("n−", "%d", "Wrong answers averaged.", width=44),
    "|v|": number_column("‖v‖", "%.2f", "L2 norm of the raw action vector (residual-stream units).", width=62),
    "|key|": number_column("‖key‖", "%.2f", "L2 norm of the raw key (residual-stream units).", width=66),
    "|v|/|key|": cc.ProgressColumn(
        "‖v‖/‖key‖", format="%.2f", min_value=0, max_value=1, help="Norm of the action against the state.", width=110
    ),
    "pick": number_column("pick", "%d", "Rank in the control basis; empty: dropped.", width=52),
    "gain": number_column("gain", "%.3f", "Marginal gain of the selection objective when it was picked.", width=62),
    "retrieved": number_column("retr.", "%d", "Held-out steps that retrieved it.", width=56),
    "committed": number_column("comm.", "%d", "Held-out steps where the gate committed it.", width=60),
    "advantage": number_column("advantage", "%+.3f", ADVANTAGE_HELP, width=78),
    "advantage 95 %": cc.TextColumn("95 %", help="Its interval, with problems as clusters; none below eight problems.", width=195),
    "pairs": number_column("pairs", "%d", "Pairs of continuations with and without it that the advantage was measured on.", width=52),
    "verdict": cc.TextColumn(
        "effect", help='Sign of the interval; "no effect seen" where it includes 0, which does not prove that there is none.', width=104
    ),
    "controls": cc.TextColumn("controls", help="Whether length or chance may explain it: passes, flagged, or cannot tell.", width=78),
    "flags": cc.TextColumn("flags", help="Confounds that the controls point at.", width=220),
    "length cos": number_column("length cos", "%+.2f", HELP["length cos"], width=76),
    "matched cos": number_column("matched cos", "%+.2f", HELP["matched cos"], width=86),
    "length gap": number_column("gap", "%+.0f", HELP["length gap"], width=52),
    "gap matched": number_column("gap matched", "%+.0f", HELP["gap matched"], width=88),
    "perm. p": number_column("perm. p", "%.3f", HELP["perm. p"], width=62),
    "shuffled cos": number_column("shuffled cos", "%+.2f", HELP["shuffled cos"], width=84),
    "stable+": cc.NumberColumn("stable+", format="percent", help=HELP["stable+"], width=62),
    "stable-": cc.NumberColumn("stable−", format="percent", help=HELP["stable-"], width=62),
    "leave-one-out": number_column("leave one out", "%+.2f", HELP["leave-one-out"], width=94),
    "others cos": number_column("others cos", "%+.2f", HELP["others cos"], width=76),
    "promotes": cc.TextColumn("promotes", help="Tokens with the largest direct logit effect, white space drawn.", width=180),
    "problem": cc.TextColumn("problem", help="Mined problem."),
    "question": cc.TextColumn("question", width=320),
}

JUDGED_COLUMNS: Columns = {
    "star": cc.TextColumn("★", help="Starred on the Curate page.", width=32),
    "tags": cc.ListColumn("tags", help="Tags, for filters and for export.", width=130),
    "name": cc.TextColumn("name", help="Display name.", width=100),
    "library": cc.TextColumn("library", help="Whether it is in the curated library, and why.", width=104),
    "note": cc.TextColumn("note", help="Its first words; the whole note stands with the entry.", width=160),
}
"""Columns of the judgements on an entry."""


def data_table(
    table: pd.DataFrame,
    styles: Columns,
    alt: str,
    *,
    key: str | None = None,
    height: int | Literal["auto", "content"] = "auto",
    clicked: Callable[[int], None] | None = None,
    ticked: Callable[[list[int]], None] | None = None,
    ticks: Sequence[int] = (),
) -> None:
    """Draw a table; empty cells stay empty.

    Args:
        styles: column styles by name; names that the table lacks have no effect.
        clicked: called with the number of a clicked row before the page is drawn again; needs a ``key``.
        ticked: lets any number of rows be ticked instead; called with their numbers. Another table needs another ``key``.
        ticks: rows that are ticked at first.
    """

    def choose_rows() -> None:
        rows = [row for row in session.selected_rows(key or "") if row < len(table.index)]
        if ticked:
            ticked(rows)
        elif clicked and rows:
            clicked(rows[0])

    st.dataframe(
        table,
        hide_index=True,
        placeholder="",
        column_config=styles,
        key=key,
        on_select=choose_rows if clicked or ticked else "ignore",
        selection_mode="multi-row" if ticked else "single-cell",  # a click anywhere in a row chooses it
        selection_default={"selection": {"rows": list(ticks)}} if ticks else None,
        height=height,
        alt=alt,
    )


def entry_table(table: pd.DataFrame, styles: Columns, *, key: str, alt: str, height: int | Literal["auto"] = "auto") -> None:
    """Draw ``table``, which has a column ``entry``; a click on a row chooses its entry on every page."""
    names = [str(name) for name in table["entry"]]
    data_table(table, styles, alt, key=key, height=height, clicked=lambda row: session.point_at(session.ACTION, names[row]))


def page_of(ids: Sequence[str], key: str) -> tuple[list[str], str]:
    """Those of the ids that a table draws, and which these are in words; with more than :data:`MOST_SHOWN`, a page of them is chosen."""
    pages, first = -(-len(ids) // MOST_SHOWN), 0
    if pages > 1:
        first = (int(st.number_input(f"Page of {pages}, {MOST_SHOWN:,} rows each", 1, pages, key=key, width=220)) - 1) * MOST_SHOWN
    drawn = list(ids[first : first + MOST_SHOWN])
    return drawn, f" Rows {first + 1:,} to {first + len(drawn):,}; a column sorts these rows." if pages > 1 else ""


def some_entries(facts: RunFacts, ids: Sequence[str]) -> pd.DataFrame:
    """The table of these entries, in this order; each call gets its own copy."""
    return _table(run_fingerprint(facts.run), facts.run.advantages_digest(), "\n".join(ids), facts, ids)


@st.cache_data(max_entries=8, show_spinner=False)
def _table(print_of_run: str, advantages: str | None, names: str, _facts: RunFacts, _ids: Sequence[str]) -> pd.DataFrame:
    return action_table(_facts, ids=_ids)
