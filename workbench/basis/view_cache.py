"""Results of the Basis page that are computed once for a run's digest and settings. All browser tabs share them: never change one."""

from collections.abc import Callable
from typing import TypeVar

import pandas as pd
import streamlit as st

from stir_core.config import RunConfig
from stir_core.store.curation import Curation
from workbench.basis import charts, data, reselection
from workbench.shared.entries import source_steps
from workbench.shared.facts import RunFacts, run_fingerprint

T = TypeVar("T")


def cached(facts: RunFacts, name: str, make: Callable[[], T], *depends: str) -> T:
    """The result of ``make``, cached by ``name``, the run's content (measured advantages included) and ``depends``."""
    return _cached(run_fingerprint(facts.run), facts.run.advantages_digest() or "", name, depends, make)


@st.cache_resource(max_entries=256, show_spinner=False)
def _cached(print_of_run: str, advantages: str, name: str, depends: tuple[str, ...], _make: Callable[[], T]) -> T:
    return _make()


def every_entry(facts: RunFacts) -> pd.DataFrame:
    """The table of the shown entries with their coordinates and current judgements."""
    curation = Curation.open(facts.run)
    return cached(facts, "entries", lambda: data.entry_columns(facts, curation.state), curation.digest)


def steps_of_entries(facts: RunFacts) -> dict[str, str]:
    """The source steps of the shown entries in lower case, for a search."""
    return cached(facts, "steps", lambda: {id_: source_steps(facts, facts.entries[id_]).casefold() for id_ in facts.shown})


def map_figure(facts: RunFacts, projection: str, column: str, chosen: str, among: tuple[str, ...] = ()) -> charts.go.Figure:
    """The map's figure; ``among``: of these entries only. It depends on the chosen entry only where it is coloured by cosines with it."""
    follows = chosen if column in (data.CHOSEN_KEY, data.CHOSEN_ACTION) else ""
    judged = Curation.open(facts.run).digest if column in ("tags", "starred") else ""

    def draw_map() -> charts.go.Figure:
        table = every_entry(facts)
        table = pd.DataFrame(table[table["entry"].isin(among)]) if among else table
        values = data.cosines_to(facts, follows, table["entry"].tolist())[column] if follows else table[column]
        places = {"x": table[f"{projection} 1"], "y": table[f"{projection} 2"], "value": values}
        return charts.action_map(table.assign(**places), projection, column, data.scale_of(values.tolist()))

    return cached(facts, "map", draw_map, projection, column, follows, judged, *among)


def stored_selection(facts: RunFacts) -> reselection.Selection:
    """The run's own basis with the parts of its gains."""
    return cached(facts, "stored selection", lambda: reselection.stored(facts))


def selection_of(facts: RunFacts, config: RunConfig) -> reselection.Selection:
    """The basis that a config would make."""
    with st.spinner("Selecting again"):
        return cached(facts, "selection", lambda: reselection.reselect(facts, config), reselection.digest(config))
