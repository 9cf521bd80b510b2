"""The Curate page's pieces: the library with its judgements, edits of a selection, notes, history, versions, the library by now."""

import hashlib
from collections.abc import Callable

import pandas as pd
import streamlit as st
from streamlit import column_config as cc

from stir_core.curation import MAX_NOTE, MAX_WHY, EditKind, make_edit
from stir_core.errors import StirError
from stir_core.store.curated import Curated, curated, library_digest
from stir_core.store.curation import Curation, signature
from workbench import session
from workbench.shared import curation_table as tables
from workbench.shared.charts import step_bars
from workbench.shared.command_lines import curate_command, curated_eval_command
from workbench.shared.confounds import VERDICTS
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.text import plain
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import ACTION_COLUMNS, JUDGED_COLUMNS, Columns, all_entries, data_table, entry_table

_REFUSED, _DONE = "curate_refused", "curate_done"
_EDITS: dict[EditKind, str] = {
    "star": "star", "unstar": "unstar", "tag": "tag", "untag": "untag", "note": "note", "exclude": "exclude", "include": "keep",
    "reselect": "leave to selection", "rename": "rename", "merge": "merge", "split": "split",
}  # fmt: skip
_VALUES = {"tag": "Tag", "untag": "Tag", "rename": "Display name (empty: the id again)", "note": "Note (empty clears it)"}
_COLUMNS: Columns = {
    **ACTION_COLUMNS,
    "entry": cc.TextColumn(
        "entry", help="Pair number and c (corrective) or n (null); x and a digest: a merged one.", pinned=True, width=92
    ),
    **JUDGED_COLUMNS,
}


def need_history(facts: RunFacts) -> Curation:
    """The run's history as it is on disk; says what the last click did, and which edits do not apply."""
    curation = Curation.open(facts.run)
    if refused := session.take_state(_REFUSED):
        st.error(plain(refused))
    if done := session.take_state(_DONE):
        st.toast(plain(done))
    if strangers := curation.strangers:
        numbers = (
            f"{strangers[0].number}" if len(strangers) == 1 else f"{len(strangers)} edits, {strangers[0].number} to {strangers[-1].number},"
        )
        st.warning(
            plain(f"Made on other entries than the run has now, kept and not applied: edit {numbers} (the actions were made again).")
        )
    return curation


def library(facts: RunFacts, curation: Curation) -> list[str]:
    """The library with its judgements and filters; gives the ids of the selected rows."""
    standing = curation.state
    table = _narrowed(tables.curation_table(all_entries(facts), facts, standing), curation)
    ids = [str(id_) for id_ in table["entry"]]
    # another table has another key: rows are selected by number, and a number must never mean another entry
    key = f"curate_table_{hashlib.sha256('|'.join([*ids, curation.digest]).encode()).hexdigest()[:12]}"

    def ticked(selected: list[str]) -> None:
        if selected and selected[-1] in facts.entries:
            session.point_at(session.ACTION, selected[-1])

    entry_table(table, _COLUMNS, key=key, alt="Entries of the library and their judgements", height=320, ticked=ticked)
    stars, tags = len(standing.starred()), len(standing.tags())
    out = sum(judged.excluded for judged in standing.entries.values())
    st.caption(
        f"n = {len(table)} of {len(facts.entries)} entries · version {len(curation)} · {stars} starred, {tags} tags, {out} excluded, "
        f"{len(standing.merges)} merged. Tick rows to edit them together."
    )
    return [ids[row] for row in session.selected_rows(key) if row < len(ids)]


def _narrowed(table: pd.DataFrame, curation: Curation) -> pd.DataFrame:
    standing = curation.state
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control("Show", list(tables.LISTS), default="all", format_func=tables.LISTS.__getitem__, key="curate_list")
        tag = st.selectbox("Tag", standing.tags(), index=None, placeholder="any", key="curate_tag", width=160)
        found = st.segmented_control(
            "Controls", VERDICTS, selection_mode="multi", key="curate_controls", disabled="controls" not in table.columns
        )
        nulls = st.toggle("Null entries", key="curate_null", help="They carry no action; they only compete.")
    table = tables.narrowed(table, kind or "all", tag, standing)
    if found and "controls" in table.columns:
        table = table.query("controls in @found")
    return (table if nulls else table.query("kind != 'null'").drop(columns="kind")).reset_index(drop=True)


def edit_selection(facts: RunFacts, curation: Curation, selected: list[str]) -> None:
    """One edit of all selected rows, or of the chosen entry where none is."""
    ids = selected or [chosen_entry(facts)]
    named = ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
    st.markdown("**Edit** " + plain(f"{len(ids)} selected: {named}" if selected else f"{named} (no row is ticked)"))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind: EditKind = (
            st.segmented_control("What", list(_EDITS), default="star", format_func=_EDITS.__getitem__, key="curate_kind", required=True)
            or "star"
        )
        if kind in _VALUES:
            st.text_input(_VALUES[kind], key=f"curate_value_{kind}", width=220)
        st.text_input("Why", key="curate_why", max_chars=MAX_WHY, width=320, help="Kept in the history.")
        twins = kind in ("exclude", "include", "reselect") and st.toggle(
            "and their null entries", value=True, key="curate_twins", help="A null left without its action wins more often."
        )
        targets = tables.with_twins(ids, facts.entries) if twins else ids
        st.button(
            f"{_EDITS[kind].capitalize()} {len(targets)}",
            type="primary",
            key="curate_apply",
            on_click=_edited,
            args=(facts, kind, targets, f"curate_value_{kind}" if kind in _VALUES else None),
        )
    if kind == "merge":
        st.caption(
            "Quality-weighted mean of keys and of actions; one control point and layer; the members are hidden. Splitting takes it back."
        )


def _edited(facts: RunFacts, kind: EditKind, ids: list[str], value_in: str | None, why_in: str | None = "curate_why") -> None:
    """In a callback: what was typed is read from its widgets now, not as it was when the button was drawn."""

    def add() -> Curation:
        who, when = signature()
        return Curation.open(facts.run).add(make_edit(kind, ids, _typed(value_in), who=who, when=when, why=_typed(why_in) or ""))

    _attempt(add, forget=why_in)


def _typed(widget: str | None) -> str | None:
    return None if widget is None else str(session.state_of(widget) or "")


def _attempt(edit: Callable[[], Curation], forget: str | None) -> None:
    """The page is drawn after it: a refusal is one line there, and what was typed stays."""
    try:
        after = edit()
    except StirError as error:
        session.set_state(_REFUSED, str(error))
        return
    session.set_state(_DONE, f"Edit {len(after)} kept: {tables.what_was_done(after.lines[-1])}")
    if forget is not None:
        session.set_state(forget, "")


def chosen_entry(facts: RunFacts) -> str:
    """The entry that all pages look at; the first one where none was chosen yet."""
    name = session.chosen(session.ACTION)
    return name if name in facts.entries else next(iter(facts.entries))


def note(facts: RunFacts, curation: Curation, entry_id: str) -> None:
    """What was said about an entry, and its note to write on."""
    judged = curation.state.of(entry_id)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(tables.fate_of(entry_id, curation.state, entry_id in facts.picks), color="orange" if judged.excluded else "gray")
        if judged.starred:
            st.badge("★ starred", color="yellow")
        for tag in judged.tags:
            st.badge(plain(tag), color="blue")
        if judged.name:
            st.caption(plain(judged.name))
    key = f"curate_note_{entry_id}_{hashlib.sha256((judged.note or '').encode()).hexdigest()[:8]}"
    text = st.text_area(
        "Note", judged.note or "", max_chars=MAX_NOTE, height=120, key=key, placeholder="What was seen, and what it rests on"
    )
    changed = text.strip() != (judged.note or "").strip()
    st.button("Save note", key="curate_save_note", disabled=not changed, on_click=_edited, args=(facts, "note", [entry_id], key, None))


def history(facts: RunFacts, curation: Curation) -> None:
    """Who did what, when and why; and a way to take it back."""
    st.markdown("**History**")
    if not len(curation):
        st.caption("Nothing has been judged yet. Every edit is kept with who, when and why; nothing is ever deleted.")
        return
    table = tables.history_table(curation)
    table = table if curation.strangers else table.drop(columns="applies")
    data_table(table, _HISTORY_COLUMNS, "Edits, the last one first", key="curate_history", height=min(320, 38 + 35 * len(table)))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = f"curate_undo_number_{len(curation)}"
        number = int(st.number_input("Edit", 1, len(curation), len(curation), key=key, width=120))
        st.text_input("Why", key="curate_undo_why", max_chars=MAX_WHY, width=260)
        st.button("Take it back", key="curate_undo", on_click=_undone, args=(facts, key))
        st.caption(plain(tables.what_was_done(curation.lines[number - 1])))


_HISTORY_COLUMNS: Columns = {
    "edit": cc.NumberColumn("edit", format="%d", width=48),
    "when": cc.TextColumn("when (UTC)", width=150),
    "who": cc.TextColumn("who", width=84),
    "what": cc.TextColumn("what", width=340),
    "why": cc.TextColumn("why", width=240),
    "applies": cc.TextColumn("applies", help="Empty: yes. No: made on entries that the run no longer has.", width=60),
}


def _undone(facts: RunFacts, number_in: str) -> None:
    def undo() -> Curation:
        who, when = signature()
        number = int(session.state_of(number_in))
        return Curation.open(facts.run).undo(number, who=who, when=when, why=_typed("curate_undo_why") or "")

    _attempt(undo, forget="curate_undo_why")


def versions_view(curation: Curation) -> None:
    """Two versions side by side; version n is what stood after n edits."""
    st.markdown("**Between two versions**")
    n = len(curation)
    if not n:
        st.caption("There is only version 0, in which nothing was judged.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        a = int(st.number_input("From version", 0, n, 0, key="curate_from", width=130))
        b = int(st.number_input("to version", 0, n, n, key=f"curate_to_{n}", width=130))
    table = tables.diff_table(curation, a, b)
    if table.empty:
        st.caption(f"Versions {a} and {b} say the same.")
        return
    data_table(table, {}, f"What version {b} says differently from version {a}", height=min(300, 38 + 35 * len(table)))
    st.caption(f"n = {len(table)} differences in {table['entry'].nunique()} entries; empty: nothing.")


def library_now(facts: RunFacts, curation: Curation) -> None:
    """What the curated library is beside the control basis, and the commands that use it."""
    st.markdown("**The curated library**")
    if "basis" not in facts.stages:
        st.caption("It is made from the control basis, which this run has not finished yet.")
        return
    made = _curated(run_fingerprint(facts.run), curation.digest, facts.run.advantages_digest(), facts, curation)
    libraries = {"basis": facts.run.library(), "curated": made.library}
    data_table(tables.libraries_table(libraries), _LIBRARY_COLUMNS, "The control basis and the curated library in numbers")
    left, right = st.columns([1, 1])
    with left:
        bars = step_bars(tables.steps_table(libraries), "entries", "library")
        st.altair_chart(bars, key="curate_steps", alt="Entries at every control point, basis and curated")
    with right:
        if not (merged := tables.lineage_table(made)).empty:
            data_table(merged, {}, "Merged entries and what they are the mean of")
        same = (
            " It holds the same entries and vectors as the basis."
            if library_digest(made.library) == library_digest(libraries["basis"])
            else ""
        )
        st.caption(f"Library {library_digest(made.library)}, version {len(curation)} of the history.{same}")
        command_line(curate_command(facts.run, "show"), "Print it with its lineage")
        command_line(curated_eval_command(facts.run), "Evaluate it against the basis on held-out problems")


@st.cache_resource(max_entries=8, show_spinner=False)
def _curated(print_of_run: str, history: str, advantages: str | None, _facts: RunFacts, _curation: Curation) -> Curated:
    return curated(_facts.run, _curation.state)


_LIBRARY_COLUMNS: Columns = {
    "orphaned": cc.NumberColumn(
        "half pairs", help="Pairs with one of their two entries only: an action without its null, or a null without its action."
    ),
    "unreachable": cc.NumberColumn("unreachable", help="Entries at the last control point, which retrieval never asks for."),
    "key_rank": cc.NumberColumn("key rank", format="%.1f", help="Effective rank of the unit keys: exp of the spectral entropy."),
    "action_rank": cc.NumberColumn("action rank", format="%.1f", help="Effective rank of the unit actions."),
    "mean_quality": cc.NumberColumn("mean quality", format="%.3f"),
}


def as_commands(facts: RunFacts) -> None:
    """The same on the command line."""
    command_line(curate_command(facts.run, "history"), "Print the history; every edit above is a command too (`stir curate RUN --help`)")
