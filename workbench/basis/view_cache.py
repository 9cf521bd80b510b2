"""What the Basis page computes once: by the run's digest and the settings, shared by all browser tabs, never changed afterwards."""

from typing import Any

import pandas as pd
import streamlit as st

from stir_core.config import RunConfig
from stir_core.curation import Judgement
from stir_core.store.curation import Curation
from workbench.basis import columns, reselection
from workbench.basis import data as geometry
from workbench.basis.charts_map import action_map
from workbench.shared.run_facts import RunFacts, fingerprint


def print_of(facts: RunFacts) -> str:
    """Digest of all that a run holds, measured advantages included."""
    return f"{fingerprint(facts.run)} {facts.run.advantages_digest()}"


def entry_table(facts: RunFacts) -> pd.DataFrame:
    """Every entry with everything known of it, and what readers said of it by now."""
    curation = Curation.open(facts.run)
    return _entry_table(print_of(facts), curation.digest, facts, curation.state)


@st.cache_resource(max_entries=16, show_spinner=False)
def _entry_table(print_of_run: str, digest_of_edits: str, _facts: RunFacts, _judged: Judgement) -> pd.DataFrame:
    return columns.entry_columns(_facts, _judged)


def map_figure(facts: RunFacts, projection: str, column: str, chosen: str) -> Any:
    """The map's figure; it depends on the chosen entry only where it is coloured by cosines with it."""
    follows = column in (columns.CHOSEN_KEY, columns.CHOSEN_ACTION)
    said = Curation.open(facts.run).digest if column in ("tags", "starred") else ""
    return _map_figure(f"{print_of(facts)} {said}", projection, column, chosen if follows else "", facts)


@st.cache_resource(max_entries=64, show_spinner=False)
def _map_figure(print_of_run: str, projection: str, column: str, chosen: str, _facts: RunFacts) -> Any:
    table = entry_table(_facts)
    values = columns.cosines_to(_facts, chosen)[column] if chosen else table[column]
    places = {"x": table[f"{projection} 1"], "y": table[f"{projection} 2"], "value": values}
    return action_map(table.assign(**places), projection, column, columns.scale_of(values.tolist()))


def stored_selection(facts: RunFacts) -> reselection.Selection:
    """The run's own basis with the parts of its gains."""
    return _stored(print_of(facts), facts)


@st.cache_resource(max_entries=16, show_spinner=False)
def _stored(print_of_run: str, _facts: RunFacts) -> reselection.Selection:
    return reselection.stored(_facts)


def selection_of(facts: RunFacts, config: RunConfig) -> reselection.Selection:
    """The basis that a config would make."""
    return _selection(print_of(facts), reselection.digest(config), facts, config)


@st.cache_resource(max_entries=64, show_spinner="Selecting again")
def _selection(print_of_run: str, digest_of_settings: str, _facts: RunFacts, _config: RunConfig) -> reselection.Selection:
    return reselection.reselect(_facts, _config)


def comparison(facts: RunFacts, after: reselection.Selection) -> pd.DataFrame:
    """The stored basis beside another selection."""
    return _comparison(print_of(facts), reselection.digest(after.config), facts, after)


@st.cache_resource(max_entries=64, show_spinner=False)
def _comparison(print_of_run: str, digest_of_settings: str, _facts: RunFacts, _after: reselection.Selection) -> pd.DataFrame:
    return reselection.comparison(_facts, stored_selection(_facts), _after)


def coverage_table(facts: RunFacts) -> pd.DataFrame:
    """Mined, selected and dropped entries."""
    return _coverage_table(print_of(facts), facts)


@st.cache_resource(max_entries=16, show_spinner=False)
def _coverage_table(print_of_run: str, _facts: RunFacts) -> pd.DataFrame:
    return geometry.coverage_table(_facts)
