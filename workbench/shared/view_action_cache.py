"""The table of all entries, made once for a run as it lies on disk and shared by all browser tabs."""

import pandas as pd
import streamlit as st

from workbench.shared.action_table import action_table
from workbench.shared.run_facts import RunFacts, fingerprint


def all_entries(facts: RunFacts) -> pd.DataFrame:
    """Every entry, null ones included, with what was mined and measured; a copy of one's own."""
    return _all_entries(fingerprint(facts.run), facts.run.advantages_digest(), facts)


@st.cache_data(max_entries=8, show_spinner=False)
def _all_entries(print_of_run: str, advantages: str | None, _facts: RunFacts) -> pd.DataFrame:
    return action_table(_facts, null_entries=True)
