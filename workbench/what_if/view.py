"""The What-if page's pieces: branches while they are decoded, the tree, two answers side by side, the one-step table, and the exits."""

import json
from contextlib import closing
from typing import Any

import streamlit as st

from stir_core.records import StepTrace, TraceEvent
from workbench import bootstrap, live, session
from workbench.shared.command_lines import whatif_command
from workbench.shared.run_facts import RunFacts
from workbench.shared.trace_comparison import changed_settings
from workbench.shared.view_columns import BRANCH_COLUMNS
from workbench.shared.view_command import command_line
from workbench.shared.view_text import text_strip
from workbench.shared.view_why_not import why_not
from workbench.shared.visible_text import one_line, plain
from workbench.what_if import charts as figures
from workbench.what_if import data as trees
from workbench.what_if import pairs
from workbench.what_if.data import Growing, Node, Origin, Tree
from workbench.what_if.view_form import Request

_NOTE, _FIGURE = "what_if_note", "what_if_tree"


def tree_of(origin: Origin) -> Tree:
    """The origin's tree in this tab."""
    return session.forest().tree(origin)


def decode(facts: RunFacts, tree: Tree, node: Node, request: Request, area: Any) -> None:
    """Decode the asked branches of a node, showing every token; each that ends stands in the tree at once."""
    origin, notes = tree.origin, []
    with area.container(border=True):
        st.button("Stop decoding", key="what_if_stop", on_click=_stopped, help="Branches that have ended are kept.")
        with st.spinner("Loading the model (the first time takes a few seconds)"):
            steering = bootstrap.steering(facts)
        growing, places, first = Growing(), {}, None
        for row, change in enumerate(request.changes):
            st.caption(plain(trees.describe(change)))
            places[row] = st.empty()
        asked = live.branches(steering, node.trace, request.changes, origin.gate, origin.decode, origin.problem)
        with closing(asked) as events:
            for event in events:
                if isinstance(event, TraceEvent):
                    made, note = session.forest().add(tree, node.number, request.changes[event.row], event.trace)
                    first = made.number if event.row == 0 else first
                    notes += [note] if note else []
                elif growing.take(event) is not None:
                    steps = growing.rows[event.row].values()
                    places[event.row].text("".join(step.text for step in steps)[-1200 if len(places) == 1 else -160 :])
    if first is not None:
        st.session_state[_with(tree)] = first
    st.session_state[_NOTE] = notes
    st.rerun()


def _stopped() -> None:
    st.session_state[_NOTE] = ["Stopped: branches that had not ended are not kept; decoding them again gives the same tokens."]


def _with(tree: Tree) -> str:
    return f"what_if_with_{tree.origin.key}"


def notes() -> None:
    """What happened on the way: a stop, a leaf that was dropped."""
    for note in st.session_state.pop(_NOTE, []):
        st.warning(plain(note))


def where(node: Node, step: StepTrace, origin: Origin) -> None:
    """The answer with its decisions, and the evidence at the chosen control point."""
    head = f"{trees.label(node)}: {trees.verdict_of(node.trace)}, {len(node.trace.token_ids)} tokens, ended by {node.trace.finish}"
    text_strip(pairs.whole(node.trace, step.evidence.m), key="what_if_answer", head=head, height=300)
    with st.expander(plain(f"What the gate saw at control point {step.m}: {one_line(str(step.decision.reason), 100)}")):
        why_not(step.evidence, step.decision, origin.gate)


def tree_view(tree: Tree) -> None:
    """The tree as a figure and a table; a click chooses what is compared."""

    def choose() -> None:
        cells = session.selected_cells(_FIGURE, figures.NODE)
        if cells and cells[0].get("branch") in tree.nodes:
            st.session_state[_with(tree)] = cells[0]["branch"]

    chart = figures.branch_tree(trees.tree_lines(tree))
    st.altair_chart(chart, key=_FIGURE, on_select=choose, alt="Tree of branches by control point, coloured by verdict")
    st.caption(
        plain("A lane an answer; it leaves its parent's lane at the changed decision. Filled: steered. Click one to compare it below.")
    )
    st.dataframe(
        trees.tree_table(tree), hide_index=True, placeholder="", column_config=BRANCH_COLUMNS, alt="Branches with verdict and tokens"
    )


def one_step(tree: Tree, node: Node, step: StepTrace) -> None:
    """Every change tried at this control point of this answer, side by side."""
    table = trees.counterfactuals(tree, node.number, step.evidence.m)
    if len(table) < 2:
        return
    st.markdown(plain(f"Everything tried at control point {step.m} of #{node.number}"))
    st.dataframe(table, hide_index=True, placeholder="", column_config=BRANCH_COLUMNS, alt="Outcome of every change tried at this step")


def compare(tree: Tree) -> Node:
    """Two answers of the tree side by side; the first one is the other's parent unless chosen otherwise."""
    numbers = [node.number for node in trees.ordered(tree)]
    key = _with(tree)
    if st.session_state.get(key) not in numbers:
        st.session_state[key] = numbers[-1]
    left, right = st.columns(2, gap="medium")
    names = {number: trees.label(tree.nodes[number]) for number in numbers}
    with right:
        number = st.selectbox("Branch", numbers, key=key, format_func=lambda n: names.get(n, str(n)))
    node = tree.nodes[number if number in numbers else 0]
    with left:
        other_key = f"{key}_other_{node.number}"
        if st.session_state.get(other_key) not in numbers:
            st.session_state[other_key] = node.parent if node.parent is not None else 0
        other = tree.nodes[st.selectbox("compared with", numbers, key=other_key, format_func=lambda n: names.get(n, str(n)))]
    _verdict_line(tree, node, other)
    rows = pairs.aligned(other.trace, node.trace)
    same = [row for row in rows if row.same]
    if same:
        with st.expander(plain(f"{len(same)} of {len(rows)} steps are the same on both sides"), expanded=len(same) == len(rows)):
            text_strip([piece for row in same if row.cells[0] for piece in row.cells[0].segments], key="what_if_same", height=220)
    for row in (row for row in rows if not row.same):
        for side, (column, cell) in enumerate(zip(st.columns(2, gap="medium"), row.cells, strict=True)):
            with column:
                if cell is None:
                    st.caption(f"m {row.m} · the answer had ended")
                else:
                    text_strip(cell.segments, key=f"what_if_{side}_{row.m}", head=cell.head)
    return node


def _verdict_line(tree: Tree, node: Node, other: Node) -> None:
    name = "the recorded trace" if other.number == 0 else f"#{other.number}"
    equal, line = trees.parting_line(node.trace, other.trace, name)
    kept = node.change is not None and node.change.to == "keep" and node.change.then == "gate"
    if node.number == other.number:
        return
    with st.container(horizontal=True):
        if kept and node.parent == other.number:
            st.badge(f"nothing changed: {line}" if equal else f"NOTHING CHANGED, and yet it {line}", color="green" if equal else "red")
        else:
            st.badge(line, color="gray" if equal else "orange")
        for shown in (other, node):
            st.badge(f"#{shown.number} {trees.verdict_of(shown.trace)}, {shown.trace.tokens_used} tokens", color="gray")


def exits(facts: RunFacts, tree: Tree, node: Node) -> None:
    """The command that makes the compared branch, and the tree as a file."""
    origin = tree.origin
    defaults = {"gate": facts.config.gate.model_dump(mode="json"), "decode": facts.config.decode.model_dump(mode="json")}
    decode = origin.decode.model_dump(mode="json", exclude={"batch_problems"})
    changed = {} if origin.recorded else changed_settings(defaults, {"gate": origin.gate.model_dump(mode="json"), "decode": decode})

    def command(number: int) -> str:
        changes = [link.change for link in tree.path(number) if link.change is not None]
        prompt = origin.problem.id if origin.problem else origin.question
        return whatif_command(facts.run, prompt, changes or [trees.Change(m=0)], raw=origin.raw, changed=changed)

    command_line(command(node.number))
    data = json.dumps(trees.download(tree, command), indent=1, ensure_ascii=False)
    name = f"what_if_{facts.name}_{origin.key}.json"
    st.download_button("Download the tree (JSON)", data, name, "application/json", key="what_if_download", on_click="ignore")
