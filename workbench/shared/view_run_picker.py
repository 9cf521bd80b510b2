"""Which run all pages look at: one selectbox in the heading of every page, bound to ``?run=``."""

import streamlit as st

from workbench import session
from workbench.bootstrap import runs_root, store
from workbench.shared.run_facts import RunFacts
from workbench.shared.visible_text import plain


def run_picker() -> None:
    """Draw the picker, or say where runs would be found."""
    runs = store().runs
    if not runs:
        st.caption(plain(f"No runs in {runs_root()}"))
        return
    session.choose(session.RUN, "Run", list(runs), help="Folders below STIR_RUNS (or ./runs), and the embedded demo run.")


def current_run() -> RunFacts | None:
    """The chosen run, the first one before any choice, ``None`` when there is none."""
    runs = store().runs
    if not runs:
        return None
    return runs.get(session.chosen(session.RUN) or "") or next(iter(runs.values()))
