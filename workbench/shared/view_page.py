"""Parts of every page: its heading, errors as one line, checks for an empty store or library, and commands."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import streamlit as st
from pydantic import BaseModel
from streamlit.components.v2 import component

from stir_core.errors import FAULTS, DataError, line_of
from workbench import session
from workbench.bootstrap import known_runs, run_of_saved, runs_root
from workbench.shared.command_lines import FIRST_RUN, run_command
from workbench.shared.facts import RunFacts
from workbench.shared.glossary import meanings
from workbench.shared.text import plain


def command_line(command: str, label: str = "Reproduce on the command line") -> None:
    """A caption and the command below it."""
    st.caption(label)
    st.code(command, language="bash", wrap_lines=True)


def badged_line(verdict: str, text: str) -> None:
    """What a comparison says, in a sentence, with its verdict in a badge before it; green only where it helps."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(verdict, color="green" if verdict == "helps" else "red" if verdict == "harms" else "gray")
        st.text(text)


def lazy_tabs(key: str, drawn: Mapping[str, Callable[[], None]]) -> None:
    """Tabs by name, of which only the open one is drawn; the address holds it as ``?key=``."""
    for tab, draw in zip(st.tabs(list(drawn), key=key, bind="query-params"), drawn.values(), strict=True):
        if tab.open:
            with tab:
                draw()


def report_downloads(text: str, report: BaseModel, name: str, key: str) -> None:
    """Buttons that save a report as Markdown (``text``) and as JSON, in files called ``name``; ``key`` begins the widgets' keys."""
    with st.container(horizontal=True):
        st.download_button("Report (Markdown)", text, f"{name}.md", "text/markdown", key=f"{key}_md", on_click="ignore")
        data = report.model_dump_json(indent=2)
        st.download_button("Report (JSON)", data, f"{name}.json", "application/json", key=f"{key}_json", on_click="ignore")


_HTML = """<button type="button" class="copy" title="Copies this page's address with everything that is chosen">Copy link</button>"""

_CSS = """
.copy { font: inherit; font-size: 0.8rem; width: 100%; min-height: 2.4rem; color: var(--st-text-color); background: transparent;
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius, 6px); cursor: pointer; white-space: nowrap; }
.copy:hover { border-color: var(--st-primary-color); color: var(--st-primary-color); }
.copy:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
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
"""Adds its ``data`` to the address as query parameters, without a request and without a step in the history."""


@contextmanager
def page(title: str, caption: str) -> Iterator[None]:
    """Heading and one line on what the page shows; a refusal, or a fault of a disk or folder, becomes one line; anything else is a bug."""
    session.begin_page(title)
    left, middle, right = st.columns([4, 0.6, 1], vertical_alignment="bottom")
    with left, st.container(gap="xxsmall"):
        st.title(title, anchor=False)
        st.caption(caption, help=meanings(caption))
    with middle:
        address = st.empty()
        _BUTTON(key="copy_link")
    with right:
        if (arrived := session.saved_arrived()) and (its_run := run_of_saved(arrived)):
            session.point_at(session.RUN, its_run)
            session.remember(session.SAVED, arrived)  # it stays in the address: it belongs to this run
        if runs := known_runs().runs:
            with suppress(DataError):  # of an absent run: the pages that read one say so themselves
                session.choose_one(
                    session.RUN,
                    "Run",
                    list(runs),
                    format_func=lambda name: f"{name} · calibration" if runs[name].run.is_organism else name,
                    help="Folders below STIR_RUNS (or ./runs), and two embedded runs: an organism, for calibration, and a real model.",
                )
        else:
            st.caption(plain(f"No runs in {runs_root()}"))
    try:
        with st.container(gap="small"):
            yield
    except FAULTS as error:
        st.error(plain(line_of(error)))
    if entered_with := session.end_page():
        with address:
            _COMPLETE(key="complete_address", data=entered_with, height=1)


def need_entries(facts: RunFacts) -> None:
    """Stop the page when the run's library is empty, and show the stage's notes on why."""
    if facts.entries:
        return
    st.info(plain(f"The library of run {facts.name} is empty: no problem had both a right and a wrong rollout at a control point."))
    for note in facts.run.manifest("actions").notes:
        st.caption(plain(note))
    st.stop()


def need_run(*stages: str, or_results: bool = False) -> RunFacts:
    """The chosen run (before any choice the first), with all of ``stages`` finished.

    Where there is none, or a stage is missing, the page shows the command that makes it and stops.

    Args:
        or_results: a run that ships as its results only will do.

    Raises:
        DataError: a link asks for a run that is not here, or cannot be read.
    """
    runs, broken = known_runs()
    if not runs:
        st.info("There is no run here yet. Make one: it appears as soon as its first stage has finished.")
        command_line(FIRST_RUN, "Make a first run")
        st.stop()
    name = session.chosen(session.RUN) or next(iter(runs))
    if name not in runs:
        unreadable = next((line for folder, line in broken.items() if Path(folder).name == name), None)
        why = f"cannot be read ({unreadable})" if unreadable else f"is not in {runs_root()}"
        raise DataError(f'run "{name[:80]}" {why}, and no other is shown for it: choose a run above, or put its folder there')
    facts = runs[name]
    if facts.run.standing:
        st.caption(plain(f"{facts.name}: {facts.run.standing}"))
    missing = [stage for stage in stages if stage not in facts.stages]
    if facts.run.results_only and missing:
        if or_results:
            return facts
        st.info("This page needs the rollouts, actions and basis that its results were made from. Evaluate, Causal and Compare open it.")
        command_line(run_command(facts.run), "Make them again")
        st.stop()
    if missing:
        st.info(plain(f'Run {facts.name} has no finished stage "{missing[0]}" yet, which this page needs.'))
        command_line(run_command(facts.run, until=stages[-1]), "Make it (finished stages are kept)")
        st.stop()
    return facts
