"""The entries of a lasso: what they have in common in numbers, one row each, as a file, and tagged all at once."""

from collections import Counter

import pandas as pd
import streamlit as st

from stir_core.curation import MAX_WHY, make_edit
from stir_core.errors import StirError
from stir_core.store.curation import Curation, signature
from workbench.basis import columns
from workbench.basis import view_cache as cache
from workbench.basis.view_map import drop_lasso, lassoed
from workbench.shared.run_facts import RunFacts
from workbench.shared.view_columns import ACTION_COLUMNS, LASSO_COLUMNS
from workbench.shared.view_entry_table import entry_table
from workbench.shared.visible_text import plain

_TABLE, _TAG, _WHY = "basis_lasso_table", "basis_tag", "basis_tag_why"
_TAGGED, _REFUSED = "basis_tagged", "basis_tag_refused"


def lasso_table(facts: RunFacts) -> None:
    """Nothing without a lasso; a click on a row chooses its entry."""
    ids = lassoed(facts)
    if not ids:
        return
    every = cache.entry_table(facts)
    table = pd.DataFrame(every[every["entry"].isin(ids)]).reset_index(drop=True)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{len(ids)} entries in the lasso**")
        st.button("Clear", key="basis_lasso_clear", on_click=drop_lasso, help="A double click on the map does the same.")
        st.download_button(
            "Download these rows (CSV)", lambda: table.to_csv(index=False), f"{facts.name}-lasso.csv", "text/csv", on_click="ignore"
        )
    left, right = st.columns([1.7, 1], gap="medium")

    with left:
        entry_table(table.dropna(axis="columns", how="all"), ACTION_COLUMNS, key=_TABLE, alt="Entries in the lasso", height=300)
    with right:
        st.dataframe(
            columns.summary(every, ids), hide_index=True, placeholder="", column_config=LASSO_COLUMNS, height=300, alt="Mean and median"
        )
    _tag_all(facts, ids)
    kinds = Counter(table["kind"].tolist())
    inside = sum(table["in the basis"].tolist())
    st.caption(f"{kinds['corrective']} corrective, {kinds['null']} null; {inside} in the basis; {table['problem'].nunique()} problems.")


def _tag_all(facts: RunFacts, ids: list[str]) -> None:
    """One edit of the run's curation for all of them; it can be taken back on the Curate page."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input("Tag", key=_TAG, max_chars=48, width=220, help="Letters, digits, spaces and . : + - _")
        st.text_input("Why", key=_WHY, max_chars=MAX_WHY, width=320, help="Kept in the history, with your name and the time.")
        st.button(f"Tag {len(ids)} entries", key="basis_tag_apply", on_click=_add_tag, args=(facts, ids))
    done, refused = st.session_state.pop(_TAGGED, None), st.session_state.pop(_REFUSED, None)
    if done:
        st.success(plain(done))
    if refused:
        st.error(plain(refused))


def _add_tag(facts: RunFacts, ids: list[str]) -> None:
    tag, why = (str(st.session_state.get(key) or "") for key in (_TAG, _WHY))
    try:
        who, when = signature()
        after = Curation.open(facts.run).add(make_edit("tag", ids, tag, who=who, when=when, why=why))
    except StirError as error:  # said where the button is; what was typed stays
        st.session_state[_REFUSED] = str(error)
        return
    st.session_state[_TAGGED] = f'Edit {len(after)}: {len(ids)} entries tagged "{tag}". It can be taken back on the Curate page.'
    st.session_state[_TAG] = ""


def all_coordinates(facts: RunFacts) -> None:
    """Every entry with its places on all maps and all columns, as a file."""
    st.download_button(
        "Download all entries with coordinates (CSV)",
        lambda: cache.entry_table(facts).to_csv(index=False),
        f"{facts.name}-entries.csv",
        "text/csv",
        key="basis_csv",
        on_click="ignore",
        help="One row an entry: every stored map's coordinates, and every column that the map can be coloured by.",
    )
