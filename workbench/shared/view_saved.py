"""Saved work on any page: opening what the address names, and the list of what there is."""

import pandas as pd
import streamlit as st
from streamlit import column_config as cc

from stir_core.errors import FAULTS, StoreError, line_of
from stir_core.saved import SavedContent, SavedKind, SavedWork
from stir_core.store.saved import run_digest
from workbench import bootstrap, session
from workbench.live import Decoding
from workbench.shared.facts import RunFacts
from workbench.shared.text import one_line, plain
from workbench.shared.view_tables import Columns

NONE_YET = "Nothing saved yet. What you decode on Trace and What-if or measure on Actions is kept by itself; `stir saved` lists it too."

PAGE_OF: dict[SavedKind, str] = {"trace": "trace", "what-if": "what_if", "rerolls": "what_if", "impulse": "actions", "re-decision": "gates"}
"""The page that each kind of saved work is shown on."""


def opened(facts: RunFacts, *kinds: SavedKind) -> tuple[SavedWork, SavedContent] | None:
    """The saved work of these kinds that the address or a list names, once in each tab; ``None``: there is nothing new to open.

    One line says where there is none, where it is damaged, or where it belongs to another run.
    """
    id_ = session.saved_to_open()
    if id_ is None or _running(id_) is not None:
        return None
    try:
        work = bootstrap.saved().work(id_)
        if work.kind not in kinds:
            return None
        session.saved_is_open(id_)
        content = bootstrap.saved_content(id_)
        if work.run_digest != run_digest(facts.run):
            raise StoreError(f"{id_} was made with run {work.run}, not with {facts.name} as it is here: the Saved page shows it")
    except FAULTS as error:
        session.forget_saved()
        st.error(plain(line_of(error)))
        return None
    return work, content


def followed(*kinds: SavedKind) -> Decoding | None:
    """The decoding of these kinds that this tab is to show, if it has not ended."""
    id_ = session.chosen(session.SAVED)
    return _running(id_) if id_ is not None and id_.startswith(kinds) else None


def _running(id_: str) -> Decoding | None:
    return next((each for each in bootstrap.decodings().running() if each.id == id_), None)


def decoding_now() -> None:
    """One line for each decoding that has not ended, with a way to it."""
    for each in bootstrap.decodings().running():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge("decoding", color="blue")
            st.text(one_line(f"{each.run}: {each.title}", 110))
            page_link(each.id, each.run, "Follow")


def page_link(id_: str, run: str | None, label: str) -> None:
    """A link to the page that shows this piece of saved work, of the run of that name."""
    stem = next(stem for kind, stem in PAGE_OF.items() if id_.startswith(f"{kind}-2"))
    query = {session.SAVED: id_} | ({session.RUN: run} if run else {})
    st.page_link(bootstrap.PAGES / f"{stem}.py", label=label, query_params=query)


def saved_table(works: list[SavedWork]) -> pd.DataFrame:
    """One row per piece of saved work."""
    rows = [(work.created, work.kind, one_line(work.title, 160), one_line(work.outcome, 160), work.run, work.id) for work in works]
    return pd.DataFrame(rows, columns=["saved (UTC)", "kind", "title", "outcome", "run", "id"])


SAVED_COLUMNS: Columns = {
    "saved (UTC)": cc.TextColumn("saved (UTC)", width=130),
    "kind": cc.TextColumn("kind", width=84),
    "title": cc.TextColumn("title", width=360),
    "outcome": cc.TextColumn("outcome", width=340),
    "run": cc.TextColumn("run", width=100),
    "id": cc.TextColumn("id", width=210, help="`?saved=ID` in an address opens it; `stir saved` takes it too."),
}
