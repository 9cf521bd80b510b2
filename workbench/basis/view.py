"""The Basis page's pieces beside the map: heatmap, pair, coverage."""

import streamlit as st

from workbench import session
from workbench.basis import data as geometry
from workbench.basis import view_cache as cache
from workbench.basis.charts import CELL, cosine_heatmap, coverage_chart
from workbench.basis.view_map import lassoed
from workbench.bootstrap import PAGES
from workbench.shared.entries import neighbours
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_tables import Columns, data_table, number_column

_STRETCH = "Keys of one model share a large common component, so their cosines lie just below 1; stretched starts at the smallest cosine."
_HEATMAP = "basis_heatmap"


COSINES, REPLAY, AGAIN, COVERAGE = "Cosines", "Replay", "Select again", "Coverage"


def view() -> str:
    """Choose the view below the map; the address holds the choice."""
    views = [COSINES, REPLAY, AGAIN, COVERAGE]
    return st.segmented_control("View", views, default=COSINES, required=True, key="basis_view", bind="query-params") or COSINES


def card_link() -> None:
    """Link to the chosen entry's whole card."""
    st.page_link(PAGES / "actions.py", label="Open the whole card")


def heatmap_view(facts: RunFacts, chosen: str) -> None:
    """Cosines in cluster order; a click on a cell chooses its row, and its column as the other entry of a pair."""
    st.header("Cosines in cluster order", anchor=False)
    points = sorted({entry.m for entry in facts.entries.values()})
    with st.container(horizontal=True):
        by = st.segmented_control("Vectors", ["keys", "actions"], default="keys", required=True, key="basis_vectors") or "keys"
        m = st.segmented_control(
            "Control point m", points, key="basis_m", help="Retrieval compares keys of one control point only. None: all."
        )
        ranges = ["−1 to 1", "stretched"]
        start = ranges[by == "keys"]
        scale = st.segmented_control("Colours", ranges, default=start, required=True, key=f"basis_scale_{by}", help=_STRETCH)
        only = st.toggle("Only the basis", key="basis_only")
    among = lassoed(facts)
    other = session.found(session.OTHER, "Other entry of the pair", facts.entries)
    first = [i for i in (chosen, other) if i]
    shown, total = geometry.heatmap_ids(facts, by, m=m, only_selected=only, among=among, first=first)
    if not shown:
        st.caption("No entries of that kind" + (" in the lasso." if among else "."))
        return
    table = geometry.heatmap_table(facts, by, shown)

    def choose_cell() -> None:
        cells = session.selected_cells(_HEATMAP, CELL)
        if cells and "i" in cells[0]:
            session.point_at(session.ACTION, str(cells[0]["i"]))
            session.remember(session.OTHER, str(cells[0]["j"]))

    left, right = st.columns([1.7, 1], gap="medium")
    with left:
        chart = cosine_heatmap(table, full_range=scale != "stretched", size=600, chosen=chosen)
        draw_chart(chart, key=_HEATMAP, on_select=choose_cell, alt=f"Cosines between {len(shown)} {by}, in cluster order")
        cut = "" if len(shown) == total else f" of {total:,} (the basis first)"
        cut += " in the lasso" if among else ""
        st.caption(f"n = {len(shown)} {by}{cut}; average linkage on 1 − cosine, optimal leaf order. Click a cell for its pair.")
    with right:
        near = neighbours(facts, chosen, by, n=1)
        _pair(facts, chosen, other or (str(near["entry"].iloc[0]) if len(near) else None))


def _pair(facts: RunFacts, one: str, other: str | None) -> None:
    st.header("Pair", anchor=False)
    st.caption("Row and column of the clicked cell; before any click the chosen entry and its nearest.")
    if other is None or other not in facts.entries:
        return
    cosines = geometry.pair_cosines(facts, one, other)
    columns = st.columns(2)
    for column, (by, value) in zip(columns, cosines.items(), strict=True):
        column.metric(f"cosine of {by}", "none" if value is None else f"{value:.3f}", help="None where one of the two carries no action.")
    for id_ in (one, other):
        entry = facts.entries[id_]
        problem = facts.problems.get(entry.problem_id)
        st.caption(plain(f"{id_} · {entry.kind} · m {entry.m} · layer {entry.layer} · quality {entry.quality:.3f} · {entry.problem_id}"))
        st.text(problem.question if problem else "")


def coverage_view(facts: RunFacts) -> None:
    """Selected entries against mined and dropped ones, in numbers and by control point."""
    st.header("Selected against dropped", anchor=False)
    table = cache.cached(facts, "coverage", lambda: geometry.coverage_table(facts))
    data_table(table, COVERAGE_COLUMNS, "Coverage of the basis")
    config = facts.config.basis
    st.caption(
        f"Selector {config.selector}, budget B = {config.budget}, diversity λ = {config.diversity:g}, ε = {config.epsilon:g}, "
        f"at least {config.min_per_control_point} per control point. Ranks are effective ranks."
        + (f" Ranks, cosines and coverage are of a sample: {facts.sampled}" if facts.large else "")
    )
    draw_chart(
        coverage_chart(geometry.counts_by_step(facts)), key="basis_coverage", alt="Entries at every control point, selected and dropped"
    )


COVERAGE_COLUMNS: Columns = {
    "split pairs": number_column(
        "split pairs", "%d", "Pairs with only one of their two entries in this set, so that an action lacks its null entry or the reverse."
    ),
    "mean quality": number_column("mean quality", "%.3f", "Mean reward gap."),
    "key rank": number_column("key rank", "%.1f", "Effective rank of the unit keys: exp of the spectral entropy."),
    "key cosine": number_column("key cosine", "%.3f", "Mean cosine over all pairs of keys."),
    "action rank": number_column("action rank", "%.1f", "Effective rank of the unit actions."),
    "action cosine": number_column("action cosine", "%.3f", "Mean cosine over all pairs of actions."),
    "nearest selected": number_column("nearest", "%.3f", "Mean cosine of each key with its nearest selected key."),
    "worst": number_column("worst", "%.3f", "Smallest such cosine: the entry that the basis covers least."),
    "unreachable": number_column("unreachable", "%d", "Entries at the last control point, which retrieval never asks for."),
}
