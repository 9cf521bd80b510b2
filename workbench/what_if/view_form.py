"""The What-if page's form: the answer, the branch, the control point, and the change there."""

from typing import Any, Literal, NamedTuple

import streamlit as st

from stir_core.config import with_changes
from stir_core.errors import StoreError
from stir_core.records import StepTrace
from stir_core.requests import DENY, KEEP, Change
from stir_core.saved import SavedBranch, SavedRerolls
from stir_core.store.critical import Of
from workbench import session
from workbench.bootstrap import PAGES
from workbench.shared.branching import BranchOrigin, compared_origin, origin_of
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.saved import change_text
from workbench.shared.text import plain
from workbench.shared.view_branching import draw_form, roll_form
from workbench.shared.view_gate import arrow_button
from workbench.shared.view_saved import opened
from workbench.what_if import data as trees
from workbench.what_if.data import Node, OfferedAction, Tree

RECORDED, SAVED = "Recorded held-out answer", "Saved branch"
LAST: dict[str, Of] = {"Last comparison of Trace": "steered", "Its vanilla answer": "vanilla"}
_KIND, _SAVED, _COMPARED, _STEPS_OF = "what_if_kind", "what_if_saved_origin", "what_if_compared", "what_if_steps_of"
_WAY = "what_if_way"
WAYS = {"Keep": KEEP, "Deny": DENY, "Take an action": ""}
THEN: dict[str, Literal["gate", "null"]] = {"the gate decides": "gate", "null from here on": "null"}


class BranchRequest(NamedTuple):
    """The values of the form."""

    changes: list[Change]
    """The branches to decode now, one for each change: empty unless a button was pressed."""
    step: StepTrace
    choice: Change
    """The change as the form stands."""
    rolls: int | None = None
    """Number of rerolls of the choice to decode now; ``None`` unless the button was pressed."""


def open_branch(facts: RunFacts) -> None:
    """Choose the answer of the saved branch or rerolls that the address names; else that of a comparison which was just made on Trace.

    Call before the form is drawn.
    """
    found = opened(facts, "what-if", "rerolls")
    if found is None:
        _open_comparison(facts)
        return
    _, content = found
    assert isinstance(content, SavedBranch | SavedRerolls)  # by their kinds
    recorded = facts.steered.get(content.name) if content.recorded and content.of == "steered" else None
    if recorded is not None and recorded.token_ids == content.origin.token_ids:
        session.point_unless_asked({session.PROBLEM: content.name})
        session.set_state(_KIND, RECORDED)
    else:
        session.set_state(_SAVED, origin_of(content, run_fingerprint(facts.run)))
        session.set_state(_KIND, SAVED)
    last = content.change if isinstance(content, SavedRerolls) else content.changes[-1]
    session.point_unless_asked({session.CONTROL_POINT: str(last.m)})
    session.set_state(_STEPS_OF, origin_of(content, run_fingerprint(facts.run)).key)


def _open_comparison(facts: RunFacts) -> None:
    """Once for each comparison of Trace in this tab, unless another held-out problem has been chosen since."""
    recording = session.recording()
    if recording is None or compared_origin(facts, recording, "steered") is None or session.state_of(_COMPARED) == recording.id:
        return
    session.set_state(_COMPARED, recording.id)
    if recording.settings["problem"] in (None, session.chosen(session.PROBLEM)):
        session.set_state(_KIND, next(iter(LAST)))


def choose_origin(facts: RunFacts) -> BranchOrigin:
    """A held-out answer of the run, an answer of the Trace page's last comparison in this tab, or that of an opened saved branch.

    Raises:
        StoreError: there is neither.
    """
    compared = {name: origin for name, of in LAST.items() if (origin := compared_origin(facts, session.recording(), of)) is not None}
    saved: BranchOrigin | None = session.state_of(_SAVED)
    saved = saved if saved is not None and saved.run == run_fingerprint(facts.run) else None
    kinds = ([RECORDED] if facts.steered else []) + list(compared) + ([SAVED] if saved else [])
    if not kinds:
        raise StoreError(f'run {facts.name} has no recorded answer: make its "steered" stage, or decode one on the Trace page')
    if session.first_state(_KIND, kinds[0]) not in kinds:
        session.set_state(_KIND, kinds[0])
    with st.container(horizontal=True, vertical_alignment="center"):
        kind = st.segmented_control("Begin from", kinds, required=True, key=_KIND, persist_state="session", label_visibility="collapsed")
        if not compared:
            st.page_link(PAGES / "trace.py", label="A prompt of your own: decode it on Trace first")
    if kind in compared:
        origin = compared[kind]
    elif kind == SAVED and saved:
        origin = saved
    else:
        chosen = session.choose_one(session.PROBLEM, "Held-out problem", list(facts.steered), facts.first_answer)
        trace, problem, config = facts.steered[chosen], facts.held_out.get(chosen), facts.config
        question = problem.question if problem else chosen
        origin = BranchOrigin(run_fingerprint(facts.run), chosen, trace, config.gate, config.decode, problem, question)
    st.text(origin.question)
    verdict = origin.trace.verdict
    grade = f"recorded answer: {verdict.reason}" if verdict else "a free prompt: answers are not graded"
    sampling = "greedy" if origin.decode.temperature == 0 else f"temperature {origin.decode.temperature:g}, seed {facts.config.seed}"
    st.caption(plain(f"{grade} · {origin.trace.tokens_used} tokens · {sampling} · {origin.gate.persistence}"))
    return origin


def choose_node(tree: Tree) -> Node:
    """The answer of the tree that is branched from."""
    key = f"what_if_from_{tree.origin.key}"
    return pick_node(tree, "Branch from", key, 0, persist_state="session")


def pick_node(tree: Tree, label: str, key: str, first: int, **widget: Any) -> Node:
    """A selectbox of the tree's answers; it stands at ``first`` until another one is chosen, or when that one is gone."""
    names = {node.number: trees.label(node) for node in trees.nodes_in_order(tree)}
    if session.state_of(key) not in names:
        session.set_state(key, first)
    number = st.selectbox(label, list(names), key=key, format_func=lambda n: names.get(n, str(n)), **widget)
    return tree.nodes[number if number in names else first]


def choose_branch_step(tree: Tree, node: Node) -> StepTrace:
    """The step whose decision is changed; the arrow keys go to the previous and the next one.

    An answer that is not the run's own begins with its first impulse: a control point that was chosen elsewhere means nothing in it.

    Raises:
        StoreError: the answer has no steps.
    """
    numbers = [str(step.m) for step in node.trace.steps]
    if not numbers:
        raise StoreError(f"the answer to {node.trace.id} has no steps: choose another one")
    first = next((str(step.m) for step in node.trace.steps if step.decision.chosen), numbers[min(1, len(numbers) - 1)])
    if not tree.origin.recorded and session.state_of(_STEPS_OF) != tree.origin.key:
        session.point_unless_asked({session.CONTROL_POINT: first})
    session.set_state(_STEPS_OF, tree.origin.key)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = session.choose_short(session.CONTROL_POINT, "Control point m whose decision is changed", numbers, first=first)
        arrow_button("Previous step", session.CONTROL_POINT, numbers, chosen, -1, name="what_if_left")
        arrow_button("Next step", session.CONTROL_POINT, numbers, chosen, +1, name="what_if_right")
    return node.trace.steps[numbers.index(chosen)]


def change_form(facts: RunFacts, origin: BranchOrigin, step: StepTrace) -> BranchRequest:
    """The change at the step, and the two buttons that decode branches."""
    entries = [facts.entries[entry_id] for entry_id in facts.picks]
    seen, others = trees.candidates(step, entries, origin.gate)
    steered = step.decision.chosen is not None
    offered = {KEEP: True, DENY: steered, "": bool(seen or others)}
    ways = [way for way, to in WAYS.items() if offered[to]]
    if session.first_state(_WAY, "Deny" if steered else "Keep") not in ways:
        session.set_state(_WAY, "Keep")
    way = st.segmented_control("Decision there", ways, required=True, key=_WAY, persist_state="session") or "Keep"
    if not steered:
        st.caption("No action was committed here, so there is none to deny.")
    chosen: OfferedAction | None = None
    own, alpha = False, 1.0
    if way in ways and WAYS[way] == "":
        chosen = _choose_candidate([*seen, *others], step)
        own, alpha = _strength(chosen, step)
    afterwards = st.segmented_control(
        "Afterwards", list(THEN), default=next(iter(THEN)), required=True, key="what_if_then", persist_state="session"
    )
    then = THEN.get(afterwards, "gate")
    to = chosen.entry_id if chosen else WAYS.get(way, KEEP)
    seed = draw_form(facts, "what_if")
    change = Change(m=step.evidence.m, to=to, alpha=(chosen.own if own else alpha) if chosen else None, then=then, seed=seed)
    all_ways = trees.all_changes(step, origin.gate, alpha, then, same=chosen is not None and not own)
    everything = [with_changes(each, seed=seed) for each in all_ways]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        one = st.button(f"Branch: {change_text(change)}", type="primary", key="what_if_branch")
        all_ = st.button(
            f"All {len(everything) - 1} candidates at once",
            key="what_if_all",
            disabled=len(everything) < 2,
            help="Decodes null and every retrieved action in one batch: each at the gate's own strength if it measured one, else at the "
            "slider's. With the gate's own strength switched off, all at the slider's.",
        )
        rolls = roll_form("what_if")
    return BranchRequest([change] if one else everything if all_ else [], step, change, rolls)


def _choose_candidate(offered: list[OfferedAction], step: StepTrace) -> OfferedAction:
    by_id = {action.entry_id: action for action in offered}
    key = f"what_if_entry_{step.evidence.m}"
    if session.state_of(key) not in by_id:
        session.set_state(key, offered[0].entry_id)
    chosen = st.selectbox(
        "Action",
        list(by_id),
        key=key,
        format_func=lambda name: by_id[name].text if name in by_id else name,
        persist_state="session",
        help="Retrieved candidates first, best score first; then every other action of the library at this control point.",
    )
    return by_id.get(chosen, offered[0])


def _strength(chosen: OfferedAction, step: StepTrace) -> tuple[bool, float]:
    """Whether the gate's own strength is used, and the slider's value."""
    with st.container(horizontal=True, vertical_alignment="center"):
        own = chosen.own is not None and st.toggle(
            f"The gate's own strength ({chosen.own:.3f})",
            value=True,
            key=f"what_if_own_{chosen.entry_id}_{step.m}",
            help="The strength that the gate would inject if it chose this action.",
        )
        if chosen.own is None:
            st.caption("The gate measured no strength for this action here.")
    value = st.slider(
        "Strength (multiple of the action vector)",
        -2.0,
        4.0,
        0.5,
        0.05,
        key="what_if_alpha",
        disabled=own,
        persist_state="session",
        help="0 injects nothing; a negative strength pushes in the opposite direction.",
    )
    return own, float(value)
