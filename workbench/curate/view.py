"""The Curate page's sections: the library with its judgements, edits of a selection, notes, history, versions, the curated library."""

import hashlib
from collections.abc import Callable

import streamlit as st
from streamlit import column_config as cc

from stir_core.curation import MAX_NOTE, MAX_WHY, EditKind, make_edit
from stir_core.errors import FAULTS, line_of
from stir_core.evaluate.confounds import VERDICTS
from stir_core.store.curated import Curated, curated, library_digest
from stir_core.store.curation import Curation, signature
from workbench import session
from workbench.shared import curation_table as tables
from workbench.shared.charts import step_bars
from workbench.shared.command_lines import curate_command, curated_eval_command
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import ACTION_COLUMNS, JUDGED_COLUMNS, Columns, data_table, page_of, some_entries

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
    """The run's history on disk. Shows the outcome of the last click, and which edits do not apply."""
    curation = Curation.open(facts.run)
    if refused := session.take_state(_REFUSED):
        st.error(plain(refused))
    if done := session.take_state(_DONE):
        st.toast(plain(done))
    if strangers := curation.strangers:
        numbers = ", ".join(str(line.number) for line in strangers[:8]) + (" and others" if len(strangers) > 8 else "")
        st.warning(
            plain(f"Kept but not applied: edit {numbers}. The actions stage was made again since then and its entries have changed.")
        )
    return curation


def library(facts: RunFacts, curation: Curation) -> list[str]:
    """The library with its judgements and filters; returns the ids of the ticked rows."""
    state = curation.state
    wanted, nulls = _wanted(facts, curation)
    ids, rows = page_of(wanted, "curate_page")
    mined = some_entries(facts, [id_ for id_ in ids if id_ not in state.merges])
    table = tables.curation_table(mined, facts, state, [id_ for id_ in ids if id_ in state.merges])
    # rows are selected by number, so a table with other rows needs another key
    key = f"curate_table_{hashlib.sha256('|'.join([*ids, curation.digest]).encode()).hexdigest()[:12]}"

    def ticked(rows: list[int]) -> None:
        if rows and ids[rows[-1]] in facts.entries:
            session.point_at(session.ACTION, ids[rows[-1]])

    table = table if nulls else table.drop(columns="kind")
    data_table(table, _COLUMNS, "Entries of the library and their judgements", key=key, height=320, ticked=ticked)
    stars, tags = len(state.starred()), len(state.tags())
    excluded = sum(judged.excluded for judged in state.entries.values())
    st.caption(
        f"n = {len(wanted):,} of {len(facts.entries):,} entries · version {len(curation)} · {stars} starred, {tags} tags, "
        f"{excluded} entries excluded, {len(state.merges)} merged.{rows} Tick rows to edit them together."
    )
    return [ids[row] for row in session.selected_rows(key) if row < len(ids)]


def _wanted(facts: RunFacts, curation: Curation) -> tuple[list[str], bool]:
    """Ids of the entries that the filters leave, merged ones first; and whether null entries are among them."""
    state = curation.state
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control("Show", list(tables.LISTS), default="all", format_func=tables.LISTS.__getitem__, key="curate_list")
        tag = st.selectbox("Tag", state.tags(), index=None, placeholder="any", key="curate_tag", width=160)
        verdicts = st.segmented_control("Controls", VERDICTS, selection_mode="multi", key="curate_controls", disabled=not facts.controls)
        nulls = st.toggle("Null entries", key="curate_null", help="They carry no action; they only compete with actions.")
    merged = [id_ for id_, members in state.merges.items() if nulls or facts.entries[members[0]].kind != "null"]
    ids = [*merged, *(id_ for id_, entry in facts.entries.items() if nulls or entry.kind != "null")]
    if verdicts and facts.controls:
        ids = [id_ for id_ in ids if facts.verdicts.get(id_) in verdicts]
    return tables.narrowed(ids, kind or "all", tag, state), nulls


def edit_selection(facts: RunFacts, curation: Curation, selected: list[str]) -> None:
    """One edit of all ticked rows, or of the chosen entry if no row is ticked."""
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
            "and their null entries", value=True, key="curate_twins", help="A null entry without its action wins more often."
        )
        targets = tables.with_twins(ids, facts.entries) if twins else ids
        st.button(
            f"{_EDITS[kind].capitalize()} {len(ids)}",
            type="primary",
            key="curate_apply",
            on_click=_edited,
            args=(facts, kind, targets, f"curate_value_{kind}" if kind in _VALUES else None),
        )
    if kind == "merge":
        st.caption(
            "Mean of the keys and of the actions, weighted by quality; all of one control point and layer. It replaces its members; "
            "splitting brings them back."
        )
        st.caption(plain(tables.merge_line(facts, ids)))


def _edited(facts: RunFacts, kind: EditKind, ids: list[str], value_in: str | None, why_in: str | None = "curate_why") -> None:
    """Callback: reads the typed values now, since they may have changed after the button was drawn."""

    def add() -> Curation:
        who, when = signature()
        return Curation.open(facts.run).add(make_edit(kind, ids, _typed(value_in), who=who, when=when, why=_typed(why_in) or ""))

    _attempt(add, forget=why_in)


def _typed(widget: str | None) -> str | None:
    return None if widget is None else str(session.state_of(widget) or "")


def _attempt(edit: Callable[[], Curation], forget: str | None) -> None:
    """Make an edit in a callback. The page that is drawn next shows the outcome; after a refusal the typed text stays."""
    try:
        after = edit()
    except FAULTS as error:
        session.set_state(_REFUSED, line_of(error))
        return
    session.set_state(_DONE, f"Edit {len(after)} kept: {tables.what_was_done(after.lines[-1])}")
    if forget is not None:
        session.set_state(forget, "")


def chosen_entry(facts: RunFacts) -> str:
    """The entry that is chosen on all pages; the one that pages open with if none was chosen yet.

    Raises:
        DataError: a link asks for an entry that the run does not have.
    """
    return session.found(session.ACTION, "Entry", facts.entries) or facts.first_entry


def note(facts: RunFacts, curation: Curation, entry_id: str) -> None:
    """The judgements of an entry, and its note to edit."""
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
        "Note", judged.note or "", max_chars=MAX_NOTE, height=120, key=key, placeholder="What you saw, and the evidence for it"
    )
    changed = text.strip() != (judged.note or "").strip()
    st.button("Save note", key="curate_save_note", disabled=not changed, on_click=_edited, args=(facts, "note", [entry_id], key, None))


def history(facts: RunFacts, curation: Curation) -> None:
    """All edits, and a button that undoes one."""
    st.header("History", anchor=False)
    if not len(curation):
        st.caption("No edit yet. Each edit is kept with its author, time and reason; nothing is ever deleted.")
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
    "applies": cc.TextColumn("applies", help="Empty: yes; no: made on entries that the run no longer has.", width=60),
}


def _undone(facts: RunFacts, number_in: str) -> None:
    def undo() -> Curation:
        who, when = signature()
        number = int(session.state_of(number_in))
        return Curation.open(facts.run).undo(number, who=who, when=when, why=_typed("curate_undo_why") or "")

    _attempt(undo, forget="curate_undo_why")


def versions_view(curation: Curation) -> None:
    """The differences between two versions; version n is the state after n edits."""
    st.header("Between two versions", anchor=False)
    n = len(curation)
    if not n:
        st.caption("There is only version 0, without any edit.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        a = int(st.number_input("From version", 0, n, 0, key="curate_from", width=130))
        b = int(st.number_input("to version", 0, n, n, key=f"curate_to_{n}", width=130))
    table = tables.diff_table(curation, a, b)
    if table.empty:
        st.caption(f"Versions {a} and {b} are equal.")
        return
    data_table(table, {}, f"Differences between versions {a} and {b}", height=min(300, 38 + 35 * len(table)))
    st.caption(f"n = {len(table)} differences in {table['entry'].nunique()} entries. Empty: no value.")


def library_now(facts: RunFacts, curation: Curation) -> None:
    """The curated library next to the control basis, and the commands that use it."""
    st.header("The curated library", anchor=False)
    if "basis" not in facts.stages:
        st.caption("It is made from the control basis, which this run has not finished yet.")
        return
    result = _curated(run_fingerprint(facts.run), curation.digest, facts.run.advantages_digest(), facts, curation)
    libraries = {"basis": facts.library, "curated": result.library}
    data_table(tables.libraries_table(libraries), _LIBRARY_COLUMNS, "The control basis and the curated library in numbers")
    left, right = st.columns([1, 1])
    bars = step_bars(tables.steps_table(libraries), "entries", "library")
    with left:
        draw_chart(bars, key="curate_steps", alt="Entries at every control point, basis and curated")
    with right:
        if not (merged := tables.lineage_table(result)).empty:
            data_table(merged, {}, "Merged entries with their members and weights")
        basis, digest = (library_digest(library) for library in libraries.values())
        same = " It holds the same entries and vectors as the basis." if digest == basis else ""
        st.caption(f"Library {digest}, version {len(curation)} of the history.{same}")
        command_line(curate_command(facts.run, "show"), "Print it with its lineage")
        command_line(curated_eval_command(facts.run), "Evaluate it against the basis on held-out problems")


@st.cache_resource(max_entries=8, show_spinner=False)
def _curated(print_of_run: str, history: str, advantages: str | None, _facts: RunFacts, _curation: Curation) -> Curated:
    return curated(_facts.run, _curation.state)


_LIBRARY_COLUMNS: Columns = {
    "orphaned": cc.NumberColumn(
        "half pairs", help="Pairs with one of their two entries only: an action without its null, or a null without its action."
    ),
    "unreachable": cc.NumberColumn("unreachable", help="Entries at the last control point, where nothing is ever retrieved."),
    "key_rank": cc.NumberColumn("key rank", format="%.1f", help="Effective rank of the unit keys: exp of the spectral entropy."),
    "action_rank": cc.NumberColumn("action rank", format="%.1f", help="Effective rank of the unit actions."),
    "mean_quality": cc.NumberColumn("mean quality", format="%.3f"),
}


def as_commands(facts: RunFacts) -> None:
    """The equivalent commands."""
    command_line(curate_command(facts.run, "history"), "Print the history; every edit above is a command too (`stir curate RUN --help`)")
