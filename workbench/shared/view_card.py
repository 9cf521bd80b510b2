"""One entry's card: where it comes from, what it promotes, which entries lie near it, and where it fired."""

from typing import Any, Literal

import streamlit as st
from streamlit import column_config as cc

from stir_core.evaluate import confounds
from stir_core.findings import Advantage
from stir_core.records import Entry
from workbench import session
from workbench.bootstrap import PAGES
from workbench.shared import entries as cards
from workbench.shared.charts import lens_bars
from workbench.shared.confounds import control_figures
from workbench.shared.entries import entry_of
from workbench.shared.facts import RunFacts
from workbench.shared.intervals import measured_line, with_interval
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_gate import CANDIDATE_COLUMNS
from workbench.shared.view_tables import ACTION_COLUMNS, ADVANTAGE_HELP, Columns, data_table, entry_table, number_column


def choose_entry(facts: RunFacts, **widget: Any) -> Entry:
    """The entry that all pages look at, with a box to choose another; in a large library the box offers the shown ones and takes any id."""
    asked = dict.fromkeys((session.chosen(session.ACTION), session.state_of(session.ACTION)))  # the latter may just have been typed
    more = [id_ for id_ in asked if id_ in facts.entries and id_ not in facts.shown_set]
    options, first = [*more, *facts.shown], facts.first_entry
    return entry_of(facts, session.choose_one(session.ACTION, "Entry", options, first, accept_new_options=facts.large, **widget))


def entry_head(facts: RunFacts, entry: Entry) -> None:
    """Name and numbers of an entry in two lines."""
    pick = facts.picks.get(entry.id)
    fate = f"pick {pick.rank + 1} of {len(facts.picks)}{', forced in' if pick.forced else ''}" if pick else "not in the basis"
    if "basis" not in facts.stages:
        fate = "no basis yet"
    reach = "" if entry.reachable else " · unreachable: retrieval never asks for the last control point"
    st.markdown(f"**{plain(entry.id)}** — {entry.kind} entry of pair {entry.pair}, control point m = {entry.m}, layer {entry.layer}")
    norm = (
        f"‖v‖ {entry.action_norm:.2f} ({entry.action_norm / entry.key_norm:.0%} of ‖key‖)"
        if entry.action_norm
        else "no action (null entry)"
    )
    rewards = f"quality {entry.quality:.3f} = {entry.reward_pos:.3f} − ({entry.reward_neg:.3f})".replace("-", "−")
    st.caption(plain(f"{rewards} · {norm} · ‖key‖ {entry.key_norm:.2f} · {fate}{reach}"))


def advantage(measured: Advantage | None) -> None:
    """An entry's advantage in a causal study; draws nothing where it was not tried."""
    if measured is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(measured.verdict, color=VERDICT_COLOURS[measured.verdict])
        st.markdown(plain(f"Advantage {with_interval(measured, '+.3f')}"), help=ADVANTAGE_HELP)
        st.caption(plain(measured_line(measured)))


VERDICT_COLOURS: dict[str, Literal["orange", "blue", "gray"]] = {
    "helps": "orange",
    "harms": "blue",
    "no effect seen": "gray",
    "cannot tell": "gray",
}
"""Warm above 0, cold below, as in the charts."""


def controls(facts: RunFacts, entry: Entry) -> None:
    """Controls that separate the action from length and chance: flags, then one figure per control."""
    st.header("Signal or confound", anchor=False)
    control = facts.controls.get(entry.id)
    if control is None:
        null = entry.kind == "null"
        st.caption(
            "A null entry has no action to control."
            if null
            else "Not measured: this run is older than the controls. Run its actions stage again to measure them."
        )
        return
    flags = confounds.flags(control)
    with st.container(horizontal=True, vertical_alignment="center"):
        for flag in flags:
            st.badge(flag, color="orange")
        if not flags:
            verdict = confounds.verdict(control)
            st.badge(verdict, color="green" if verdict == "passes" else "gray")
    figures = control_figures(control)
    columns = [*st.columns(len(figures) // 2), *st.columns(len(figures) // 2)]
    for column, figure in zip(columns, figures, strict=True):
        column.metric(figure.name, figure.value, help=figure.help)


def lens(facts: RunFacts, entry: Entry) -> None:
    """Tokens promoted and suppressed through the unembedding."""
    tokens = facts.lenses.get(entry.id)
    st.header("Through the unembedding", anchor=False)
    if tokens is None:
        st.caption("A null entry has no action to read.")
        return
    draw_chart(lens_bars(tokens), key="lens_bars", alt=f"Tokens that {entry.id} promotes and suppresses, as direct logit effects")
    st.caption("Read through the final norm's gain; the direct path only, without the computation of later layers.")


def neighbours_view(facts: RunFacts, entry: Entry, by: str) -> None:
    """Nearest entries by cosine in the original space; a click on a row chooses its entry."""
    table = cards.neighbours(facts, entry.id, by)
    st.header(f"Nearest by cosine of {by}", anchor=False)
    if table.empty:
        st.caption("A null entry has no action; see its neighbours by key.")
        return
    entry_table(table, NEIGHBOUR_COLUMNS, key=f"near_{by}_{entry.id}", alt=f"Entries nearest to {entry.id} by cosine of {by}")


def firings_view(facts: RunFacts, entry: Entry) -> None:
    """Held-out steps that retrieved this entry, committed ones first; a click chooses the step on every page."""
    st.header("Held-out steps that retrieved it", anchor=False)
    if not facts.steered:
        st.caption("This run has no held-out traces yet.")
        return
    table = cards.firings(facts, entry.id)
    if table.empty:
        st.caption(f"None of the {sum(len(t.steps) for t in facts.steered.values())} held-out steps retrieved it.")
        return

    def choose_row(number: int) -> None:
        row = table.iloc[number]
        session.point_at(session.PROBLEM, str(row["problem"]))
        session.point_at(session.CONTROL_POINT, str(row["m"]))
        session.point_at(session.AT, f"{row['problem']}:{row['m']}")

    alt, height = "Held-out steps that retrieved the entry, committed ones first, then by cosine", "content" if len(table) < 9 else 320
    data_table(table, FIRING_COLUMNS, alt, key=f"actions_firings_{entry.id}", height=height, clicked=choose_row)
    committed = table["committed"].tolist().count(True)
    fired = f"committed at {committed}" if committed else "committed at none: it never fired"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"n = {len(table)} steps, {fired}. Margin is score minus null score. "
            "A click on a row chooses its problem and step everywhere, and where the impulse above is measured."
        )
        st.page_link(PAGES / "gates.py", label="Open the chosen step in Gates")


NEIGHBOUR_COLUMNS: Columns = ACTION_COLUMNS | {
    "cosine": cc.NumberColumn("cosine", format="%.3f", width=60, help="Cosine of raw vectors in the original space."),
    "kind": cc.TextColumn("kind", width=76),
    "same problem": cc.CheckboxColumn("same source", help="Mined from the same problem.", width=84),
    "in basis": cc.CheckboxColumn("basis", help="In the control basis.", width=50),
}


FIRING_COLUMNS: Columns = CANDIDATE_COLUMNS | {
    "committed": cc.CheckboxColumn("committed"),
    "alpha": number_column("alpha", "%.2f", "Injected multiple of the action; empty when not committed."),
    "answer right": cc.CheckboxColumn("answer right", help="Verdict of the whole steered answer."),
}
