"""The chain of latents as a strip, drawn by a component; a click on a latent chooses it. Everything is set as text."""

from collections.abc import Callable, Sequence

from streamlit.components.v2 import component

from workbench import session
from workbench.latents.data import StripStep
from workbench.shared.view_text import ADD_ELEMENT

_HTML = """<div class="chain" role="list"></div>"""

_CSS = """
.chain { display: flex; flex-wrap: wrap; gap: 10px; padding: 3px; font-family: var(--st-font); font-size: 0.8rem; line-height: 1.45;
  color: var(--st-text-color); }
.step { flex: 1 1 11rem; max-width: 22rem; min-width: 0; display: flex; flex-direction: column; gap: 4px; padding: 9px 11px;
  background: var(--st-secondary-background-color); border: 1px solid var(--st-border-color); border-radius: 8px; }
.step.wrong { border: 2px dashed #d55e00; padding: 8px 10px; }
.head { display: flex; justify-content: space-between; gap: 8px; flex-wrap: wrap; font-weight: 600; }
.text { font-family: var(--st-code-font); overflow-wrap: anywhere; }
.quiet { opacity: 0.75; }
.latents { display: flex; gap: 6px; flex-wrap: wrap; margin-top: auto; }
.latent { flex: 1 1 4.5rem; display: flex; flex-direction: column; font: inherit; color: inherit; text-align: left;
  cursor: pointer; padding: 4px 8px; min-height: 2.6rem; background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: 6px; }
.latent:hover { border-color: var(--st-primary-color); }
.latent:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px; }
.latent.chosen { border-color: #e6007e; box-shadow: 0 0 0 1.5px #e6007e; }
"""

_JS = (
    """
export default function (component) {
  const { data, parentElement, setTriggerValue } = component
  const chain = parentElement.querySelector(".chain")
  if (!chain || !data) return
"""
    + ADD_ELEMENT
    + """
  chain.replaceChildren()
  for (const one of data.steps) {
    const step = add(chain, "div", "step" + (one.wrong ? " wrong" : ""))
    step.setAttribute("role", "listitem")
    const head = add(step, "div", "head")
    add(head, "span", "", one.title)
    if (one.verdict) add(head, "span", "", one.verdict)
    const truth = add(step, "div", "")
    add(truth, "span", "quiet", "truth ")
    add(truth, "span", "text", one.truth)
    const read = add(step, "div", "")
    add(read, "span", "quiet", "read ")
    add(read, "span", "text", one.read)
    if (one.coherence) add(step, "div", "quiet", one.coherence)
    const latents = add(step, "div", "latents")
    for (const latent of one.latents) {
      const chosen = latent.slot === data.chosen
      const button = add(latents, "button", "latent" + (chosen ? " chosen" : ""))
      button.type = "button"
      button.setAttribute("aria-pressed", String(chosen))
      button.setAttribute("aria-label", "latent " + latent.label)
      button.onclick = () => setTriggerValue("picked", latent.slot)
      add(button, "b", "", latent.label)
      add(button, "span", "quiet", latent.entropy)
      if (latent.stop) add(button, "span", "quiet", latent.stop)
    }
  }
}
"""
)

_STRIP = component("stir_latent_strip", html=_HTML, css=_CSS, js=_JS)


def latent_strip(steps: Sequence[StripStep], chosen: int, picked: Callable[[int], None], *, key: str) -> None:
    """Draw the chain.

    Args:
        picked: called with the number of a latent that was clicked, before the page is drawn again.
    """

    def choose() -> None:
        slot = (session.state_of(key) or {}).get("picked")
        if isinstance(slot, int):
            picked(slot)

    _STRIP(data={"steps": list(steps), "chosen": chosen}, key=key, on_picked_change=choose)
