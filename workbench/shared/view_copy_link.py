"""The page's address: completed with what is chosen when a page is entered, and a button that copies it.

It holds every choice, so whoever opens it sees the same thing.
"""

from collections.abc import Mapping

from streamlit.components.v2 import component

_HTML = """<button type="button" class="copy" title="Copies this page's address with everything that is chosen">Copy link</button>"""

_CSS = """
.copy { font: inherit; font-size: 0.8rem; width: 100%; min-height: 2.4rem; color: var(--st-text-color); background: transparent;
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius, 6px); cursor: pointer; white-space: nowrap; }
.copy:hover, .copy:focus-visible { border-color: var(--st-primary-color); color: var(--st-primary-color); outline: none; }
"""

_JS = """
export default function (component) {
  const button = component.parentElement.querySelector(".copy")
  if (!button) return
  const say = (text) => {
    button.textContent = text
    setTimeout(() => { button.textContent = "Copy link" }, 1600)
  }
  const byHand = (address) => {
    // without a secure origin there is no clipboard interface: select and copy, as browsers always could
    const field = document.createElement("textarea")
    field.value = address
    document.body.appendChild(field)
    field.select()
    const done = document.execCommand("copy")
    field.remove()
    say(done ? "Copied" : "Copy it from the address bar")
  }
  button.onclick = () => {
    const address = window.location.href
    if (navigator.clipboard && window.isSecureContext) {
      navigator.clipboard.writeText(address).then(() => say("Copied"), () => byHand(address))
    } else byHand(address)
  }
}
"""

_COMPLETE_JS = """
export default function (component) {
  const address = new URL(window.location.href)
  for (const [name, value] of Object.entries(component.data || {})) address.searchParams.set(name, value)
  // replaced, not pushed: entering a page is one step of the browser's history already
  if (address.search !== window.location.search) window.history.replaceState(window.history.state, "", address)
}
"""

_BUTTON = component("stir_copy_link", html=_HTML, css=_CSS, js=_JS)

_COMPLETE = component("stir_complete_address", html="<span hidden></span>", js=_COMPLETE_JS)


def complete_address(choices: Mapping[str, str]) -> None:
    """Add ``choices`` to the address as query parameters, without a request and without a step in the history."""
    _COMPLETE(key="complete_address", data=dict(choices), height=1)


def copy_link() -> None:
    """Draw the button."""
    _BUTTON(key="copy_link")
