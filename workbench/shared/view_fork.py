"""The tokens of answers to click, and the fork: an answer decoded on from one of them, with another of the likeliest put there."""

from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st
from streamlit.components.v2 import component

from stir_core.config import GateConfig
from stir_core.intervene.changes import change_at
from stir_core.requests import DENY, KEEP
from workbench import bootstrap, session
from workbench.shared.branching import BranchOrigin
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.trace_comparison import ROWS, STEERED, VANILLA, Recording
from workbench.shared.trace_document import VIEW_CSS, VIEW_JS, document
from workbench.shared.view_branching import Path, branch_command, decode_branches, decode_rerolls, draw_form, roll_form
from workbench.shared.view_page import command_line

_JS = (
    VIEW_JS
    + """
const standing = new WeakMap()

export default function (component) {
  const { data, parentElement, setTriggerValue } = component
  const root = parentElement.querySelector(".trace-root")
  if (!root || !data) return
  const fork = (chosen) => setTriggerValue("fork", chosen)
  const before = standing.get(parentElement), key = JSON.stringify([data.digest, data.version])
  if (before) before.state.fork = fork
  if (!before || before.key !== key || before.stopped || !root.firstChild) {
    if (before) before.stop()
    const held = before && before.key === key ? before.state.held : null
    const kept = { quantity: before ? before.state.quantity : null, held, fork }
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
_FORK = "trace_fork"
_WAYS = {
    "steered": {"steered: the gate decides": (KEEP, "gate"), "vanilla from here on": (DENY, "null")},
    "vanilla": {"vanilla": (KEEP, "null"), "steered: the gate decides": (KEEP, "gate")},
}
"""For each answer the ways to go on: what is decided at its step's control point, and after it."""


class ClickedToken(NamedTuple):
    """A token that is to stand at a place of an answer."""

    row: int
    """The answer's place among :data:`ROWS`."""
    position: int
    """0-based token."""
    token: int
    """Id of what is put there."""
    text: str
    was: str
    """The token that is there."""


def token_strip(recording: Recording, key: str, rows: Sequence[int] = (VANILLA, STEERED)) -> None:
    """Answers token by token; a click on one of the likeliest tokens is what :func:`clicked_token` then returns.

    Args:
        rows: the answers that are drawn, beside each other.
    """

    def choose() -> None:
        if chosen := (session.state_of(key) or {}).get("fork"):
            session.set_state(_FORK, dict(chosen) | {"of": recording.id})

    version = [len(recording.tokens(row)) for row in rows] + [len(recording.readings[row]) for row in rows]
    drawn = document(recording, GateConfig.model_validate(recording.settings["gate"]), rows)
    _STRIP(data=drawn | {"version": version}, key=key, on_fork_change=choose)  # drawn anew only where digest or version differ


def clicked_token(recording: Recording) -> ClickedToken | None:
    """The token that was just clicked in the strip of this recording, once."""
    chosen = session.take_state(_FORK)
    if not chosen or chosen["of"] != recording.id:
        return None
    return ClickedToken(int(chosen["row"]), int(chosen["at"]), int(chosen["id"]), str(chosen["text"]), str(chosen["was"]))


@st.dialog("Fork the answer", width="medium")
def fork_dialog(facts: RunFacts, origin: BranchOrigin, path: Path, clicked: ClickedToken, name: str) -> None:
    """Ask how an answer goes on from a token; the What-if page then shows the branch beside it.

    Args:
        path: from the origin to the answer.
        name: of the answer.
    """
    trace = path[-1][1] if path else origin.trace
    same = trace.token_ids[clicked.position] == clicked.token
    there = ", as it was" if same else f" in place of “{clicked.was}”"
    st.markdown(plain(f"{name[:1].upper()}{name[1:]}, token {clicked.position + 1}: “{clicked.text}”{there}"))
    ways = _WAYS[origin.of]
    way = st.segmented_control(
        "Goes on", list(ways), default=next(iter(ways)), required=True, key=f"trace_fork_way_{ROWS.index(origin.of)}"
    )
    to, then = ways.get(str(way), next(iter(ways.values())))
    seed = draw_form(facts, "trace_fork")
    change = change_at(trace, clicked.position, token=clicked.token, text=clicked.text, to=to, then=then, seed=seed)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        one = st.button("Fork here", type="primary", key="trace_fork_start")
        rolls = roll_form("trace_fork")
    command_line(branch_command(facts, origin, [*(before for before, _ in path), change]), "This fork on the command line")
    if one:
        decode_branches(facts, origin, path, [change], name)
    elif rolls is not None:
        decode_rerolls(facts, origin, path, change, rolls)
    if one or rolls is not None:
        st.switch_page(bootstrap.PAGES / "what_if.py")
