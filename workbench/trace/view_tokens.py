"""Two answers token by token, coloured by a chosen quantity, with a panel for the token that is pointed at and the gate under each step.

Model text is set as ``textContent``. A click holds the panel, Escape releases it; arrow keys move from token to token. The code that draws
is the one of the downloaded HTML file.
"""

from typing import Any

from streamlit.components.v2 import component

from workbench.trace.html_file import VIEW_CSS, VIEW_JS

_JS = (
    VIEW_JS
    + """
const standing = new WeakMap()

export default function (component) {
  const { data, parentElement } = component
  const root = parentElement.querySelector(".trace-root")
  if (!root || !data) return
  const before = standing.get(parentElement), key = JSON.stringify([data.digest, data.version])
  if (!before || before.key !== key || before.stopped || !root.firstChild) {
    if (before) before.stop()
    const held = before && before.key === key ? before.state.held : null
    const kept = before ? { quantity: before.state.quantity, held } : null
    standing.set(parentElement, { key, stopped: false, ...drawTrace(root, data, kept) })
  }
  return () => {
    const last = standing.get(parentElement)
    last.stop()
    last.stopped = true
  }
}
"""
)

_STRIP = component("stir_token_strip", html='<div class="trace-root"></div>', css=VIEW_CSS, js=_JS)


def token_strip(document: dict[str, Any], *, key: str) -> None:
    """Draw a comparison (:func:`workbench.trace.document.document`); it is drawn anew only when it has changed."""
    tokens = [token for step in document["steps"] for row in step["rows"] for token in row["tokens"]]
    version = [len(tokens), sum(token["reading"] is not None for token in tokens)]
    _STRIP(data=document | {"version": version}, key=key)
