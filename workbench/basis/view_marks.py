"""Rings and lines laid over a plotly map: the chosen entry, its pair, its neighbours, a lasso's entries.

The chart itself is left as it is, for a chart that changes is a new one to Streamlit and loses its zoom and its selection.
"""

from collections.abc import Sequence
from typing import NamedTuple

from streamlit.components.v2 import component

from workbench.shared.charts_colours import CHOSEN, GREY

Point = tuple[float, float]

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


class Marks(NamedTuple):
    """Places on a map, in its own coordinates."""

    chosen: Point | None
    other: Point | None = None
    near: Sequence[Point] = ()
    lasso: Sequence[Point] = ()


def map_marks(chart_key: str, marks: Marks, *, key: str) -> None:
    """Draw marks over the plotly chart of that key."""
    _MARKS(data={"chart": f"st-key-{chart_key}", "colour": CHOSEN, "ink": GREY, **marks._asdict()}, key=key)
