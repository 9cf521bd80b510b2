"""The Basis page's map: a click chooses an entry everywhere, a lasso or box collects entries, rings show what was chosen elsewhere."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from workbench import session
from workbench.basis import columns
from workbench.basis import data as geometry
from workbench.basis import view_cache as cache
from workbench.basis.view_marks import Marks, Point, map_marks
from workbench.shared.action_card import neighbours
from workbench.shared.run_facts import RunFacts

_MAP, _LASSO, _BY_REGION = "basis_map", "basis_lasso", "basis_by_region"
_HELP = (
    "Any column of the entries. Numbers on one side of 0 run on one scale, numbers around 0 on a scale centred there, names get colours of "
    "their own; grey: not measured. Coloured by cosines with the chosen entry the map is drawn anew at each choice, and loses its zoom."
)


def action_map_view(facts: RunFacts, chosen: str) -> None:
    """The map with its two choices."""
    names = geometry.projections(facts)
    table = cache.entry_table(facts)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        projection = st.segmented_control(
            "Projection", names, default=names[0], required=True, format_func=str.upper, key="basis_projection"
        )
        offered = columns.colourings(table)
        column = st.selectbox(
            "Colour by", offered, index=offered.index("m"), key="basis_colour", bind="query-params", help=_HELP, width=260
        )
    projection = projection if projection in names else names[0]
    st.plotly_chart(
        cache.map_figure(facts, projection, column, chosen),
        key=_MAP,
        on_select=take_selection,
        selection_mode=("points", "box", "lasso"),
        config={"scrollZoom": True, "displaylogo": False},
        alt=f"{projection} map of {len(facts.entries)} entries by {column}",
    )
    map_marks(_MAP, _marks(facts, table, projection, chosen), key="basis_marks")
    fallback = "" if "umap" in names else " This run stores no UMAP map (too few entries for one), so PCA is shown."
    st.caption(
        f"n = {len(facts.entries)} entries by key. Filled: in the basis; open: dropped. Ring: chosen; broken ring: its pair; hairlines: "
        f"nearest keys in the original space. Click a point to choose it; lasso or box (chart's toolbar) for a table.{fallback}"
    )


def lassoed(facts: RunFacts) -> list[str]:
    """Entries inside the last lasso or box, in the order of the run; empty where there is none."""
    inside = frozenset(st.session_state.get(_LASSO, ()))
    return [id_ for id_ in facts.entries if id_ in inside]


def drop_lasso() -> None:
    """Forget the lasso."""
    st.session_state.pop(_LASSO, None)


def take_selection() -> None:
    """What the browser selected: a region is collected, a single click chooses, an emptied region is forgotten."""
    selection = (st.session_state.get(_MAP) or {}).get("selection") or {}
    found = [str(data[0]) for data in session.selected_points(_MAP) if data]
    region = bool(selection.get("lasso") or selection.get("box"))
    if region:
        st.session_state[_LASSO] = found
    elif found:
        session.point_at(session.ACTION, found[0])
    elif st.session_state.get(_BY_REGION):
        drop_lasso()
    st.session_state[_BY_REGION] = region


def _marks(facts: RunFacts, table: pd.DataFrame, projection: str, chosen: str) -> Marks:
    places = table.set_index("entry")[[f"{projection} 1", f"{projection} 2"]]

    def of(ids: Sequence[str]) -> list[Point]:
        return [(float(x), float(y)) for x, y in places.reindex(list(ids)).itertuples(index=False)]

    other = session.chosen(session.OTHER)
    other = other if other in facts.entries and other != chosen else None
    near = neighbours(facts, chosen, "keys")["entry"].tolist()
    return Marks(of([chosen])[0], of([other])[0] if other else None, of(near), of(lassoed(facts)))
