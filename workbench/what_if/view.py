"""The What-if page's sections: decoding of branches, the tree, two answers side by side, the table of one step, and downloads."""

import json

import streamlit as st
from streamlit import column_config as cc
from streamlit.delta_generator import DeltaGenerator

from stir_core.errors import line_of
from stir_core.records import StepTrace, TokenEvent
from stir_core.requests import Change
from stir_core.saved import SavedBranch
from workbench import bootstrap, session
from workbench.bootstrap import PAGES
from workbench.live import Decoding
from workbench.shared.branching import BranchOrigin, parting_line
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.text import one_line, plain
from workbench.shared.trace_comparison import ROWS, Recording, grade_of, recording_of_answer
from workbench.shared.view_branching import branch_command, decode_branches, decode_rerolls, saved_of
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_fork import clicked_token, fork_dialog, token_strip
from workbench.shared.view_gate import why_not
from workbench.shared.view_page import command_line
from workbench.shared.view_saved import followed
from workbench.shared.view_tables import Columns, data_table, number_column
from workbench.shared.view_text import text_strip
from workbench.what_if import charts as figures
from workbench.what_if import data as pairs
from workbench.what_if.data import Forest, Node, Tree
from workbench.what_if.view_form import BranchRequest, pick_node

_NOTE, _FIGURE = "what_if_note", "what_if_tree"


def _forest() -> Forest:
    """The trees of this browser tab."""
    return session.first_state("what_if_forest", Forest())


def tree_of(facts: RunFacts, origin: BranchOrigin) -> Tree:
    """The origin's tree: every saved branch of it, whichever tab or server made it."""
    tree = _forest().tree(origin)
    merged: set[str] = session.first_state("what_if_merged", set())
    for work, content in reversed(list(saved_of(facts, origin, "what-if", leave_out=merged))):
        assert isinstance(content, SavedBranch)  # by its kind
        merged.add(work.id)
        if note := _forest().merge(tree, content):
            session.set_state(_NOTE, [*session.state_of(_NOTE, []), note])
        if work.id == session.chosen(session.SAVED) and (node := pairs.node_at(tree, content.changes)) is not None:
            session.set_state(_with(tree), node.number)
    return tree


def branch_decoding(facts: RunFacts, tree: Tree, node: Node, request: BranchRequest) -> Decoding | None:
    """What this tab is to follow: the branches or rerolls that were just asked for, or some that are being decoded already."""
    path = pairs.path_to(tree, node.number)
    if request.rolls is not None:
        begun = decode_rerolls(facts, tree.origin, path, request.choice, request.rolls)
    elif request.changes:
        begun = decode_branches(facts, tree.origin, path, request.changes, pairs.label(node))
    else:
        return followed("what-if", "rerolls")
    session.saved_is_open(begun.id)  # the page stays where it is
    return begun


def follow_branches(decoding: Decoding, area: DeltaGenerator) -> None:
    """Show the branches as they grow; then draw the page again with them in the tree."""
    with area.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Stop decoding", key="what_if_stop", on_click=decoding.stop, help="Finished branches are kept.")
            st.caption("Decoding goes on when you open another page, and what it makes is saved.")
        state = st.empty()
        places = []
        for name, _ in decoding.made:
            st.caption(plain(name))
            places.append(st.empty())
        for batch in decoding.follow():
            started = any(text for _, text in decoding.made)
            state.caption("Decoding" if started else "Loading the model, once for this server: up to a minute on a busy machine")
            for row in sorted({event.row for event in batch if isinstance(event, TokenEvent)}):
                places[row].text(decoding.made[row][1][-1200 if len(places) == 1 else -160 :])
    if decoding.stopping:
        session.saved_is_open(decoding.id)
        session.set_state(_NOTE, ["Stopped: unfinished branches are not kept; decoding them again gives the same tokens."])
    if decoding.fault is not None:
        area.empty()
        session.forget_saved()
        st.error(plain(line_of(decoding.fault)))
        return
    st.rerun()


def _with(tree: Tree) -> str:
    """Session key of the branch that is compared."""
    return f"what_if_with_{tree.origin.key}"


def branch_notes() -> None:
    """Notes of the last decoding: that it was stopped, or that a branch was dropped."""
    for note in session.take_state(_NOTE, []):
        st.warning(plain(note))


def where(node: Node, step: StepTrace, origin: BranchOrigin) -> None:
    """The answer with its decisions, and the gate's evidence at the chosen control point."""
    head = f"{pairs.label(node)}: {grade_of(node.trace)}, {len(node.trace.token_ids)} tokens, ended by {node.trace.finish}"
    text_strip(pairs.whole(node.trace, step.evidence.m), key="what_if_answer", head=head, height=300)
    with st.expander(plain(f"Evidence of the gate at control point {step.m}: {one_line(str(step.decision.reason), 100)}")):
        why_not(step.evidence, step.decision, origin.gate)


def tokens_view(facts: RunFacts, tree: Tree, node: Node) -> None:
    """The answer's tokens, once they are asked for: a click on one of the likeliest puts it there and asks how the answer goes on."""
    name, origin = pairs.label(node), tree.origin
    kept: dict[tuple[str, int], Recording] = session.first_state("what_if_tokens_read", {})
    row, place = ROWS.index(origin.of), (origin.key, node.number)
    compared = session.recording()
    if place not in kept and compared is not None and compared.read and compared.traces[row] == node.trace:
        kept[place] = recording_of_answer(node.trace, compared.readings[row], row, origin.gate)
    if place not in kept or kept[place].ids(row) != node.trace.token_ids:
        asking = st.empty()
        with asking.container(horizontal=True, vertical_alignment="center"):
            asked = st.button(f"Tokens of #{node.number}", key="what_if_tokens_ask")
            st.caption("To put another token in the place of one. The model reads the answer again, for the alternatives at each token.")
        if not asked:
            return
        asking.empty()
        spinner = st.spinner("Reading the answer again (the model is loaded first, if it is not in memory)")
        with spinner, bootstrap.shelf().lent(facts.run, run_fingerprint(facts.run)) as steering:
            readings = [reading for _, reading in steering.read([node.trace], origin.gate)]
        kept[place] = recording_of_answer(node.trace, readings, row, origin.gate)
    st.caption(plain(f"Tokens of {name}: click one, then one of its likeliest alternatives, to go on from there."))
    token_strip(kept[place], "what_if_tokens", (row,))
    if (clicked := clicked_token(kept[place])) is not None:
        fork_dialog(facts, origin, pairs.path_to(tree, node.number), clicked, name)


def tree_view(tree: Tree) -> None:
    """The tree as a figure and a table; a click chooses the branch that is compared below."""

    def choose() -> None:
        cells = session.selected_cells(_FIGURE, figures.NODE)
        if cells and cells[0].get("branch") in tree.nodes:
            session.set_state(_with(tree), cells[0]["branch"])

    chart = figures.branch_tree(pairs.tree_lines(tree))
    draw_chart(chart, key=_FIGURE, on_select=choose, alt="Tree of branches by control point, coloured by verdict")
    st.caption(
        plain(
            "One lane for each answer; it leaves its parent's lane at the changed decision. Filled: steered. Click one to compare it below."
        )
    )
    data_table(pairs.tree_table(tree), BRANCH_COLUMNS, "Branches with verdict and tokens")


def one_step(tree: Tree, node: Node, step: StepTrace) -> None:
    """Every change tried at this control point of this answer, side by side."""
    table = pairs.counterfactuals(tree, node.number, step.evidence.m)
    if len(table) < 2:
        return
    st.markdown(plain(f"All changes tried at control point {step.m} of #{node.number}"))
    data_table(table, BRANCH_COLUMNS, "Outcome of every change tried at this step")


def compare(tree: Tree) -> Node:
    """Two answers of the tree side by side: a branch, and its parent unless another answer is chosen. Returns the branch.

    Without a branch there is nothing to compare, and nothing is drawn.
    """
    if len(tree.nodes) == 1:
        return tree.nodes[0]
    left, right = st.columns(2, gap="medium")
    with right:
        node = pick_node(tree, "Branch", _with(tree), pairs.nodes_in_order(tree)[-1].number)
    with left:
        other = pick_node(tree, "Compared with", f"{_with(tree)}_other_{node.number}", node.parent or 0)
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
                    st.caption(f"control point {row.m} · the answer ended earlier")
                else:
                    text_strip(cell.segments, key=f"what_if_{side}_{row.m}", head=cell.head)
    return node


def _verdict_line(tree: Tree, node: Node, other: Node) -> None:
    name = "the recorded trace" if other.number == 0 else f"#{other.number}"
    equal, line = parting_line(node.trace, other.trace, name)
    if node.number == other.number:
        return
    with st.container(horizontal=True):
        if node.parent == other.number and node.change is not None and pairs.changes_nothing(node.change, other.trace):
            st.badge(f"nothing changed: {line}" if equal else f"NOTHING CHANGED, yet it {line}", color="green" if equal else "red")
        else:
            st.badge(line, color="gray" if equal else "orange")
        for shown in (other, node):
            st.badge(f"#{shown.number} {grade_of(shown.trace)}, {shown.trace.tokens_used} tokens", color="gray")


def choice_command(facts: RunFacts, tree: Tree, node: Node, choice: Change) -> None:
    """The command that decodes the branch which the form describes, pressed or not."""
    command_line(_command(facts, tree, node.number, choice), "This branch on the command line")


def _command(facts: RunFacts, tree: Tree, number: int, *further: Change) -> str:
    """The command that decodes an answer of the tree, and ``further`` changes of it."""
    changes = [*(change for change, _ in pairs.path_to(tree, number)), *further]
    return branch_command(facts, tree.origin, changes or [Change(m=0)])


def tree_downloads(facts: RunFacts, tree: Tree, node: Node) -> None:
    """The command that decodes the compared branch, the tree as a file, and the way to share a branch."""
    if node.number:
        command_line(_command(facts, tree, node.number), f"Branch #{node.number} on the command line")
    data = json.dumps(pairs.tree_json(tree, lambda number: _command(facts, tree, number)), indent=1, ensure_ascii=False)
    name = f"what_if_{facts.name}_{tree.origin.key}.json"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button("Download the tree (JSON)", data, name, "application/json", key="what_if_download", on_click="ignore")
        if node.number:
            st.page_link(PAGES / "saved.py", label="Share the branch as one HTML file")


BRANCH_COLUMNS: Columns = {
    "branch": number_column("branch", "#%d", "Number of the answer in the tree; #0 is the recorded one.", width=62),
    "of": number_column("of", "#%d", "The answer that it is a branch of.", width=46),
    "at this step": cc.TextColumn("at this step", help="Decision at this control point.", pinned=True, width=200),
    "change": cc.TextColumn("change", width=200),
    "verdict": cc.TextColumn("verdict", width=84),
    "extracted": cc.TextColumn("extracted", help="Final answer that grading extracted.", width=84),
    "tokens": number_column("tokens", "%d", "Tokens of the whole answer.", width=62),
    "differs_at": number_column("differs at", "%d", "First token that differs from its parent; empty: the two are equal.", width=76),
    "m": number_column("after m", "%d", "The control point before the first difference.", width=62),
    "repeats": number_column("3-gram rep.", "%.3f", "Share of token triples that occurred earlier in the same answer.", width=84),
    "degenerated": cc.CheckboxColumn("degenerate", help="At least half of its token triples occurred earlier.", width=92),
    "commits": number_column("impulses", "%d", "Steps with an impulse, forced ones included.", width=70),
    "ran": number_column(
        "forward", "%d", "Token positions run through the model to decode it: the given tokens once, and its previews.", width=68
    ),
}
