"""The Trace page's fork: an answer decoded on from one of its tokens, with a token that was clicked among the likeliest put there."""

import streamlit as st

from stir_core.intervene.changes import change_at
from stir_core.requests import DENY, KEEP
from workbench import bootstrap, session
from workbench.shared.branching import BranchOrigin, compared_origin
from workbench.shared.facts import RunFacts
from workbench.shared.text import plain
from workbench.shared.trace_comparison import ROWS, STEERED, VANILLA, Recording
from workbench.shared.view_branching import branch_command, decode_branches, decode_rerolls, draw_form, roll_form
from workbench.shared.view_page import command_line

_FORK = "trace_fork"
_WAYS = {
    STEERED: {"steered: the gate decides": (KEEP, "gate"), "vanilla from here on": (DENY, "null")},
    VANILLA: {"vanilla": (KEEP, "null"), "steered: the gate decides": (KEEP, "gate")},
}
"""For each answer the ways to go on: what is decided at its step's control point, and after it."""


def choose_fork(recording: Recording, key: str) -> None:
    """Take over the token that was clicked in the component of that key."""
    chosen = (session.state_of(key) or {}).get("fork")
    if chosen:
        session.set_state(_FORK, dict(chosen) | {"of": recording.id})


def ask_fork(facts: RunFacts, recording: Recording) -> None:
    """Ask how the answer goes on from a token that was just clicked; the What-if page then shows the branch beside its origin."""
    chosen = session.take_state(_FORK)
    if not chosen or chosen["of"] != recording.id:
        return
    row, position = int(chosen["row"]), int(chosen["at"])
    origin = compared_origin(facts, recording, ROWS[row])
    if origin is not None and position < len(origin.trace.token_ids):
        _dialog(facts, origin, row, position, int(chosen["id"]), str(chosen["text"]), str(chosen["was"]))


@st.dialog("Fork the answer", width="medium")
def _dialog(facts: RunFacts, origin: BranchOrigin, row: int, position: int, token: int, text: str, was: str) -> None:
    same = origin.trace.token_ids[position] == token
    st.markdown(plain(f"{ROWS[row]} answer, token {position + 1}: “{text}”" + (", as it was" if same else f" in place of “{was}”")))
    ways = _WAYS[row]
    way = st.segmented_control("Goes on", list(ways), default=next(iter(ways)), required=True, key=f"trace_fork_way_{row}")
    to, then = ways.get(str(way), next(iter(ways.values())))
    seed = draw_form(facts, "trace_fork")
    change = change_at(origin.trace, position, token=token, text=text, to=to, then=then, seed=seed)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        one = st.button("Fork here", type="primary", key="trace_fork_start")
        rolls = roll_form("trace_fork")
    command_line(branch_command(facts, origin, [change]), "This fork on the command line")
    if one:
        decode_branches(facts, origin, (), [change], f"the {ROWS[row]} answer")
    elif rolls is not None:
        decode_rerolls(facts, origin, (), change, rolls)
    if one or rolls is not None:
        st.switch_page(bootstrap.PAGES / "what_if.py")
