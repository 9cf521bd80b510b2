"""The grid of codes: one card each, drawn by a component, since Streamlit's tables hold no cards. A click on a card chooses its code."""

from collections.abc import Mapping

import streamlit as st
from streamlit.components.v2 import component

from stir_core.records import Lens
from workbench import session
from workbench.codebook.data import ORDERS, Book, cards
from workbench.shared.view_text import ADD_ELEMENT

_HTML = """<div class="grid" role="list"></div>"""

_CSS = """
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 10px; max-height: 660px;
  overflow-y: auto; padding: 3px; font-family: var(--st-font); font-size: 0.8rem; line-height: 1.4; color: var(--st-text-color); }
.card { display: flex; flex-direction: column; gap: 5px; text-align: left; font: inherit; color: inherit; padding: 9px 11px;
  cursor: pointer; background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color); border-radius: 8px;
  min-width: 0; }
.card:hover { border-color: var(--st-primary-color); }
.card:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px; }
.card.chosen { border-color: #e6007e; box-shadow: 0 0 0 1.5px #e6007e; }
.head { display: flex; gap: 8px; align-items: baseline; flex-wrap: wrap; }
.label { color: #111; font-weight: 600; border-radius: 4px; padding: 0 8px; }
.quiet { opacity: 0.75; }
.flag { color: #111; background: #e69f00; border-radius: 4px; padding: 0 6px; }
.text { font-family: var(--st-code-font); font-size: 0.75rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.bars { display: flex; align-items: flex-end; gap: 3px; height: 34px; }
.bar { flex: 1; min-width: 3px; max-width: 26px; height: 100%; display: flex; align-items: flex-end;
  box-shadow: inset 0 -1px 0 var(--st-border-color); }
.bar span { display: block; width: 100%; border-radius: 2px 2px 0 0; }
.token { font-family: var(--st-code-font); font-size: 0.75rem; border: 1px solid var(--st-border-color); border-radius: 4px;
  padding: 0 4px; margin-right: 4px; white-space: nowrap; }
"""

_JS = (
    """
export default function (component) {
  const { data, parentElement, setTriggerValue } = component
  const grid = parentElement.querySelector(".grid")
  if (!grid || !data) return
"""
    + ADD_ELEMENT
    + """
  const kept = grid.scrollTop
  grid.replaceChildren()
  for (const one of data.cards) {
    const card = add(add(grid, "div"), "button", "card" + (one.chosen ? " chosen" : ""))
    card.parentElement.setAttribute("role", "listitem")
    card.parentElement.style.display = "grid"
    card.type = "button"
    card.setAttribute("aria-pressed", String(one.chosen))
    card.setAttribute("aria-label", "code " + one.code)
    card.onclick = () => setTriggerValue("picked", one.code)
    const head = add(card, "div", "head")
    add(head, "span", "label", one.code).style.background = one.colour
    add(head, "span", "", one.used)
    for (const flag of one.flags) add(head, "span", "flag", flag)
    add(card, "div", "quiet", one.right)
    const bars = add(card, "div", "bars")
    for (const [m, k, n] of one.points) {
      const bar = add(bars, "div", "bar")
      bar.title = "control point " + m + ": " + k + " of " + n + " steps"
      const fill = add(bar, "span")
      fill.style.height = (100 * k / n).toFixed(1) + "%"
      fill.style.background = one.colour
    }
    for (const text of one.texts) add(card, "div", "text", text)
    const lens = add(card, "div")
    add(lens, "span", "quiet", one.promotes.length ? "promotes " : "promotes: not read")
    for (const token of one.promotes) add(lens, "span", "token", token)
    add(card, "div", "quiet", "effect: " + one.effect)
  }
  grid.scrollTop = kept
}
"""
)

_GRID = component("stir_code_grid", html=_HTML, css=_CSS, js=_JS)
_KEY = "codebook_grid"


def code_grid(book: Book, lenses: Mapping[int, Lens]) -> None:
    """Draw all codes that have a member."""

    def choose() -> None:
        picked = (session.state_of(_KEY) or {}).get("picked")
        if picked in book.by_number:
            session.point_at(session.CODE, str(picked))

    with st.container(horizontal=True, vertical_alignment="bottom"):
        order = st.segmented_control("Order", list(ORDERS), default="number", required=True, key="codebook_order") or "number"
    chosen = session.chosen(session.CODE)
    first = book.layer.codes[0].code
    ringed = int(chosen) if chosen is not None and chosen in map(str, book.by_number) else first
    _GRID(data={"cards": cards(book, lenses, order, ringed)}, key=_KEY, on_picked_change=choose)
    of = "of the code's own vectors" if book.own else "of the mined actions one of whose wrong rollouts has the code where it was mined"
    st.caption(
        f"{len(book.layer.codes)} codes with a step, n = {len(book.rows)} steps. Bars: share of a control point's steps that have the "
        f"code. Texts: its steps nearest to its mean. Effect: mean measured advantage {of}. Click a card for more."
    )
