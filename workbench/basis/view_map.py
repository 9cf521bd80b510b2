"""The Basis page's map: a click chooses an entry on every page, a lasso or box collects entries, marks show the current choices.

Marks are drawn over the chart, which itself stays unchanged: Streamlit draws a changed chart anew, without its zoom and selection.
"""

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import streamlit as st
from streamlit import column_config as cc
from streamlit.components.v2 import component

from stir_core.curation import MAX_WHY, make_edit
from stir_core.errors import FAULTS, line_of
from stir_core.store.curation import Curation, signature
from workbench import session
from workbench.basis import data as columns
from workbench.basis import view_cache as cache
from workbench.shared.charts import CHOSEN, GREY
from workbench.shared.entries import neighbours
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain, plural
from workbench.shared.view_charts import ZOOMED, draw_chart
from workbench.shared.view_tables import ACTION_COLUMNS, Columns, data_table, entry_table, number_column

_JS = """
const SVG = "http://www.w3.org/2000/svg"

export default function (component) {
  const { data, parentElement } = component
  parentElement.stopMarks?.()
  if (!data) return
  let gd = null, svg = null, last = ""

  const make = (name, attributes) => {
    const node = document.createElementNS(SVG, name)
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value)
    return node
  }
  const forget = () => {
    svg?.remove()
    for (const name of ["plotly_relayouting", "plotly_relayout", "plotly_afterplot"]) gd?.removeListener?.(name, draw)
    gd = svg = null
    last = ""
  }
  const find = () => {
    const found = document.querySelector("." + data.chart + " .js-plotly-plot")
    if (found === gd && (!svg || svg.isConnected)) return
    forget()
    if (!found?._fullLayout?.xaxis || !found.on) return
    gd = found
    gd.style.position = "relative"
    svg = make("svg", { class: "map-marks", "aria-hidden": "true" })
    svg.style.cssText = "position:absolute;left:0;top:0;pointer-events:none"
    gd.appendChild(svg)
    for (const name of ["plotly_relayouting", "plotly_relayout", "plotly_afterplot"]) gd.on(name, draw)
  }
  function draw() {
    const x = gd?._fullLayout?.xaxis, y = gd?._fullLayout?.yaxis
    if (!svg || !x || !y) return
    const sight = [...x.range, ...y.range, x._offset, x._length, y._offset, y._length].join()
    if (sight === last) return
    last = sight
    const across = (v) => (v - x.range[0]) / (x.range[1] - x.range[0]) * x._length
    const down = (v) => y._length - (v - y.range[0]) / (y.range[1] - y.range[0]) * y._length
    svg.setAttribute("width", x._length)
    svg.setAttribute("height", y._length)
    svg.style.left = x._offset + "px"
    svg.style.top = y._offset + "px"
    svg.replaceChildren()
    const ring = (place, what, r, colour, width, more = {}) => svg.appendChild(make("circle", {
      class: what, cx: across(place[0]), cy: down(place[1]), r, fill: "none", stroke: colour, "stroke-width": width, ...more }))
    const line = (a, b, what, colour, width, more = {}) => svg.appendChild(make("line", {
      class: what, x1: across(a[0]), y1: down(a[1]), x2: across(b[0]), y2: down(b[1]), stroke: colour, "stroke-width": width, ...more }))
    for (const place of data.lasso) ring(place, "lassoed", 7, data.ink, 1.2, { "stroke-opacity": 0.75 })
    if (!data.chosen) return
    for (const place of data.near) line(data.chosen, place, "near", data.ink, 1, { "stroke-opacity": 0.8 })
    if (data.other) {
      line(data.chosen, data.other, "pair", data.colour, 1.6, { "stroke-dasharray": "5 3" })
      ring(data.other, "other", 9.5, data.colour, 2, { "stroke-dasharray": "3 2.4" })
    }
    ring(data.chosen, "chosen", 9.5, data.colour, 2.6)
  }
  const look = () => { find(); draw() }
  const clock = setInterval(look, 150)  // the chart may come later, be drawn anew, or grow to full screen
  look()
  parentElement.stopMarks = () => { clearInterval(clock); forget() }
  return () => parentElement.stopMarks?.()
}
"""

_MARKS = component("stir_map_marks", html="<span></span>", css=":host { display: none }", js=_JS)


_MAP, _LASSO, _BY_REGION = "basis_map", "basis_lasso", "basis_by_region"
_SEARCH, NEIGHBOURHOOD = "basis_search", 24
_SEARCH_HELP = (
    "Entries mined at a step with all these words: the step that ends at the control point, or the one after it, in the right and wrong "
    "answers that the entry averages. They are ringed on the map and listed below it."
)
_ISOLATE_HELP = f"Draw only the chosen entry and those found or lassoed, or where there are none the {NEIGHBOURHOOD} with the nearest keys."
_HELP = (
    "Any column of the entries. Numbers on one side of 0 run on one scale, numbers around 0 on a scale centred there, names get colours of "
    "their own; grey: not measured. Coloured by cosines with the chosen entry, the map is drawn anew at each choice and loses its zoom."
)


def action_map_view(facts: RunFacts, chosen: str) -> None:
    """The map, with the choice of its projection and colours."""
    names = columns.projections(facts)
    table = cache.every_entry(facts)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        projection = st.segmented_control(
            "Projection", names, default=names[0], required=True, format_func=str.upper, key="basis_projection"
        )
        offered = columns.colourings(table)
        column = st.selectbox(
            "Colour by", offered, index=offered.index("m"), key="basis_colour", bind="query-params", help=_HELP, width=220
        )
        st.text_input("Search source steps", key=_SEARCH, bind="query-params", width=220, placeholder="words of a step", help=_SEARCH_HELP)
        alone = st.toggle("Isolate", key="basis_isolate", bind="query-params", help=_ISOLATE_HELP)
    projection = projection if projection in names else names[0]
    near = neighbours(facts, chosen, "keys", n=NEIGHBOURHOOD)["entry"].tolist()
    inside = [*(lassoed(facts) or near), chosen] if alone else []
    among = tuple(id_ for id_ in facts.shown if id_ in inside)
    draw_chart(
        cache.map_figure(facts, projection, column, chosen, among),
        key=_MAP,
        on_select=take_selection,
        selection_mode=("points", "box", "lasso"),
        config=ZOOMED,
        alt=f"{projection} map of {len(among or facts.shown)} entries by {column}",
    )
    places = _marks(facts, projection, chosen)
    _MARKS(data={"chart": f"st-key-{_MAP}", "colour": CHOSEN, "ink": GREY, **places}, key="basis_marks")
    fallback = "" if "umap" in names else " This run stores no UMAP map (too few entries for one), so PCA is shown."
    st.caption(
        f"n = {len(among or facts.shown):,} entries by key{_isolated(facts) if among else '.'} {facts.sampled} Filled: in the basis; open: "
        "dropped. Ring: chosen; broken ring: its pair; hairlines: nearest keys of all in the original space. "
        f"Click a point to choose it; lasso or box (chart's toolbar) for a table.{fallback}"
    )


def _isolated(facts: RunFacts) -> str:
    return f" of {len(facts.shown):,}: {'the collected ones' if lassoed(facts) else 'the nearest keys'} and the chosen one."


def searched(facts: RunFacts) -> str:
    """The words that source steps are searched for; empty: none, or a run whose rollouts are not there."""
    return str(session.state_of(_SEARCH) or "").strip() if "rollouts" in facts.stages else ""


def lassoed(facts: RunFacts) -> list[str]:
    """Entries whose source steps are searched for, else those inside the last lasso or box, in the order of the run; may be empty."""
    if query := searched(facts):
        return columns.found_by_text(cache.steps_of_entries(facts), query)
    inside = frozenset(session.state_of(_LASSO, ()))
    return [id_ for id_ in facts.shown if id_ in inside]


def drop_lasso() -> None:
    """Forget the search and the lasso."""
    session.take_state(_LASSO)
    session.set_state(_SEARCH, "")


def take_selection() -> None:
    """React to the browser's selection: a region is collected, a click chooses an entry, an emptied region is forgotten."""
    selection = (session.state_of(_MAP) or {}).get("selection") or {}
    ids = [str(data[0]) for data in session.selected_points(_MAP) if data]
    region = bool(selection.get("lasso") or selection.get("box"))
    if region:
        session.set_state(_LASSO, ids)
        session.set_state(_SEARCH, "")
    elif ids:
        session.point_at(session.ACTION, ids[0])
    elif session.state_of(_BY_REGION):
        drop_lasso()
    session.set_state(_BY_REGION, region)


def _marks(facts: RunFacts, projection: str, chosen: str) -> dict[str, object]:
    """Marked points, in the map's own coordinates."""

    def of(ids: Sequence[str]) -> list[list[float]]:
        return facts.maps[projection][[facts.row[id_] for id_ in ids]].astype(float).tolist()

    other = session.chosen(session.OTHER)
    other = other if other in facts.entries and other != chosen else None
    near = neighbours(facts, chosen, "keys")["entry"].tolist()
    pair = of([other])[0] if other else None
    return {"chosen": of([chosen])[0], "other": pair, "near": of(near), "lasso": of(lassoed(facts))}


_TABLE, _TAG, _WHY = "basis_lasso_table", "basis_tag", "basis_tag_why"
_TAGGED, _REFUSED = "basis_tagged", "basis_tag_refused"


def lasso_table(facts: RunFacts) -> None:
    """The entries in the lasso, with summaries; draws nothing without a lasso. A click on a row chooses its entry."""
    ids, query = lassoed(facts), searched(facts)
    if not ids:
        if query:
            st.info(plain(f'No source step of the shown entries has the words "{query[:80]}".'))
        return
    every = cache.every_entry(facts)
    table = pd.DataFrame(every[every["entry"].isin(ids)]).reset_index(drop=True)
    with st.container(horizontal=True, vertical_alignment="center"):
        found = f'{plural(len(ids), "entry", "entries")} with "{query[:60]}"' if query else f"{len(ids)} entries in the lasso"
        st.header(plain(found), anchor=False)
        st.button("Clear", key="basis_lasso_clear", on_click=drop_lasso, help="A double click on the map does the same.")
        st.download_button(
            "Download these rows (CSV)", lambda: table.to_csv(index=False), f"{facts.name}-lasso.csv", "text/csv", on_click="ignore"
        )
    left, right = st.columns([1.7, 1], gap="medium")

    with left:
        entry_table(table.dropna(axis="columns", how="all"), ACTION_COLUMNS, key=_TABLE, alt="Entries in the lasso", height=300)
    with right:
        data_table(columns.column_summary(every, ids), LASSO_COLUMNS, "Mean and median", height=300)
    _tag_all(facts, ids)
    kinds = Counter(table["kind"].tolist())
    inside = sum(table["in the basis"].tolist())
    st.caption(f"{kinds['corrective']} corrective, {kinds['null']} null; {inside} in the basis; {table['problem'].nunique()} problems.")


def _tag_all(facts: RunFacts, ids: list[str]) -> None:
    """Widgets that tag all these entries by one edit of the run's curation."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input("Tag", key=_TAG, max_chars=48, width=220, help="Letters, digits, spaces and . : + - _")
        st.text_input("Why", key=_WHY, max_chars=MAX_WHY, width=320, help="Kept in the history, with your name and the time.")
        st.button(f"Tag {len(ids)} entries", key="basis_tag_apply", on_click=_add_tag, args=(facts, ids))
    done, refused = session.take_state(_TAGGED), session.take_state(_REFUSED)
    if done:
        st.success(plain(done))
    if refused:
        st.error(plain(refused))


def _add_tag(facts: RunFacts, ids: list[str]) -> None:
    tag, why = (str(session.state_of(key) or "") for key in (_TAG, _WHY))
    try:
        who, when = signature()
        after = Curation.open(facts.run).add(make_edit("tag", ids, tag, who=who, when=when, why=why))
    except FAULTS as error:  # shown at the button; the typed text stays
        session.set_state(_REFUSED, line_of(error))
        return
    session.set_state(_TAGGED, f'Edit {len(after)}: {len(ids)} entries tagged "{tag}". It can be taken back on the Curate page.')
    session.set_state(_TAG, "")


def all_coordinates(facts: RunFacts) -> None:
    """Button that downloads all entries with their coordinates and columns."""
    st.download_button(
        "Download all entries with coordinates (CSV)",
        lambda: columns.entry_columns(facts, Curation.open(facts.run).state, every=True).to_csv(index=False),
        f"{facts.name}-entries.csv",
        "text/csv",
        key="basis_csv",
        on_click="ignore",
        help="One row per entry: every stored map's coordinates, and every column that the map can be coloured by.",
    )


LASSO_COLUMNS: Columns = {
    "column": cc.TextColumn("column", width=120),
    "n": number_column("n", "%d", "Entries in the lasso that have a value.", width=44),
    "mean": number_column("mean", "%.3f", "Over the lasso.", width=70),
    "median": number_column("median", "%.3f", "Over the lasso.", width=70),
    "mean of all": number_column("mean of all", "%.3f", "Over every entry of the map that has a value.", width=84),
}
