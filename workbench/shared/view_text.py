"""Model text on a page: set as ``textContent``, so that it is shown and never interpreted as markup.

Pointing at a token (or focusing it with Tab) shows its number, id and log-probability in the line above the text.
"""

from collections.abc import Sequence

from streamlit.components.v2 import component

from workbench.shared.text import Segment

ADD_ELEMENT = """
  const add = (parent, tag, name, text) => {
    const made = document.createElement(tag)
    if (name) made.className = name
    if (text !== undefined) made.textContent = text
    parent.appendChild(made)
    return made
  }
"""
"""A function for the scripts of components: a new element below another, with its text as text."""

_HTML = """<div class="head" aria-live="polite"></div>
<div class="strip" role="document"></div>"""

_CSS = """
.strip { white-space: pre-wrap; overflow-wrap: anywhere; overflow-y: auto; font-family: var(--st-code-font); font-size: 0.8rem;
  line-height: 1.5; color: var(--st-text-color); background: var(--st-secondary-background-color); border-radius: 6px; padding: 8px 10px; }
.strip:empty::before { content: "(no text)"; opacity: 0.5; }
.past { opacity: 0.68; }
.steered { box-shadow: inset 0 -2px 0 #d55e00; }
.mark { font-weight: 700; color: color-mix(in srgb, #d55e00 70%, var(--st-text-color)); }
.code { color: #111; border-radius: 4px; font-weight: 600; }
.tip:hover, .tip:focus { outline: 1px solid var(--st-text-color); outline-offset: -1px; }
.head { font-size: 0.8rem; min-height: 1.5em; line-height: 1.5; opacity: 0.8; color: var(--st-text-color); white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
.head:empty { display: none; }
"""

_JS = """
export default function (component) {
  const { data, parentElement } = component
  const strip = parentElement.querySelector(".strip")
  const head = parentElement.querySelector(".head")
  if (!strip || !data) return
  strip.style.maxHeight = data.height ? data.height + "px" : "none"
  strip.replaceChildren()
  head.textContent = data.head
  for (const piece of data.segments) {
    if (!piece.text) continue
    const span = document.createElement("span")
    span.textContent = piece.text
    span.className = piece.role + (piece.tip ? " tip" : "")
    if (data.shaded && piece.shade > 0.02) span.style.background = "rgba(58, 135, 200, " + (0.55 * piece.shade).toFixed(3) + ")"
    if (piece.colour) span.style.background = piece.colour
    if (piece.tip) {
      span.tabIndex = 0
      const show = () => { head.textContent = piece.tip }
      const hide = () => { head.textContent = data.head }
      span.onmouseenter = show
      span.onfocus = show
      span.onmouseleave = hide
      span.onblur = hide
    }
    strip.appendChild(span)
  }
  const mark = strip.querySelector(".mark")
  if (mark && data.height) strip.scrollTop = Math.max(0, mark.offsetTop - strip.offsetTop - 0.35 * data.height)
}
"""

_STRIP = component("stir_text_strip", html=_HTML, css=_CSS, js=_JS)


def text_strip(segments: Sequence[Segment], *, key: str, height: int | None = None, head: str = "", shaded: bool = False) -> None:
    """Draw pieces of model text; ``shaded`` tints them by their ``shade``; ``height`` (pixels) makes long text scroll."""
    _STRIP(data={"segments": list(segments), "height": height, "head": head, "shaded": shaded}, key=key)
