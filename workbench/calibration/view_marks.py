"""The table of marks. Its cells hold several lines, which Streamlit's own tables cannot show."""

from collections.abc import Sequence

from streamlit.components.v2 import component

from workbench.calibration.data import InstrumentRow

_HTML = """<div class="wide" tabindex="0"><table><caption></caption><thead></thead><tbody></tbody></table></div>"""

_CSS = """
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-family: var(--st-font); font-size: 0.8rem; line-height: 1.4; color: var(--st-text-color);
  min-width: 100%; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; vertical-align: top; padding: 6px 10px; border-bottom: 1px solid var(--st-border-color);
  min-width: 10rem; max-width: 19rem; }
th { font-weight: 600; }
th small { display: block; font-weight: 400; opacity: 0.75; }
tbody th { position: sticky; left: 0; min-width: 7.5rem; max-width: 10rem; background: var(--st-background-color); }
.verdict { font-weight: 600; white-space: nowrap; }
.pass { color: color-mix(in srgb, #009e73 65%, var(--st-text-color)); }
.fail { color: color-mix(in srgb, #d55e00 65%, var(--st-text-color)); }
.expected { opacity: 0.75; }
.none { opacity: 0.5; }
@media (max-width: 500px) {
  th, td { min-width: 8.5rem; padding: 5px 6px; }
  tbody th { min-width: 5.5rem; max-width: 6.5rem; }
}
"""

_JS = """
export default function (component) {
  const { data, parentElement } = component
  const root = parentElement.querySelector("table")
  if (!root || !data) return
  const add = (parent, tag, text, name) => {
    const made = document.createElement(tag)
    if (text) made.textContent = text
    if (name) made.className = name
    parent.appendChild(made)
    return made
  }
  root.querySelector("caption").textContent = "Instruments by rung: verdict, seen, expected"
  const head = root.querySelector("thead"), body = root.querySelector("tbody")
  head.replaceChildren()
  body.replaceChildren()
  const top = add(head, "tr")
  add(top, "th", "instrument").scope = "col"
  data.rungs.forEach((rung, i) => {
    const cell = add(top, "th", rung)
    cell.scope = "col"
    add(cell, "small", data.planted[i])
  })
  for (const row of data.rows) {
    const line = add(body, "tr")
    add(line, "th", row.instrument).scope = "row"
    for (const mark of row.cells) {
      if (!mark) { add(line, "td", "–", "none"); continue }
      const cell = add(line, "td")
      add(cell, "span", mark.passed ? "✓ pass " : "✗ FAIL ", "verdict " + (mark.passed ? "pass" : "fail"))
      add(cell, "span", mark.seen)
      add(cell, "div", "expected: " + mark.expected, "expected")
      if (mark.why) cell.title = mark.why
    }
  }
}
"""

_MARKS = component("stir_calibration_marks", html=_HTML, css=_CSS, js=_JS)


def mark_table(rungs: Sequence[str], planted: Sequence[str], rows: Sequence[InstrumentRow], *, key: str) -> None:
    """Draw one row per instrument and one column per rung; the reason of a threshold is a cell's tooltip."""
    _MARKS(data={"rungs": list(rungs), "planted": list(planted), "rows": list(rows)}, key=key)
