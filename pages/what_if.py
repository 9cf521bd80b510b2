"""What-if: a recorded answer decoded again from one of its steps, with the gate's decision there kept, denied or replaced."""

import streamlit as st

from workbench.shared.view_page import need_entries, need_run, page
from workbench.what_if import view as views
from workbench.what_if import view_form as form
from workbench.what_if import view_rerolls as reroll_views

with page("What-if", "Change one decision or token of a recorded answer and decode on from there: a tree of branches, side by side."):
    facts = need_run("actions", "basis", "steered")
    need_entries(facts)
    form.open_branch(facts)
    views.branch_notes()
    left, right = st.columns([1.25, 1], gap="medium")
    with left:
        tree = views.tree_of(facts, form.choose_origin(facts))
    with right:
        node = form.choose_node(tree)
        step = form.choose_branch_step(tree, node)
        request = form.change_form(facts, tree.origin, step)
        views.choice_command(facts, tree, node, request.choice)
    growing = st.empty()
    with left:
        views.where(node, step, tree.origin)
    if decoding := views.branch_decoding(facts, tree, node, request):
        views.follow_branches(decoding, growing)
    views.tokens_view(facts, tree, node)
    asked = reroll_views.rerolls_asked()
    if asked:
        reroll_views.rerolls_view(facts, tree.origin)
    views.tree_view(tree)
    views.one_step(tree, node, step)
    views.tree_downloads(facts, tree, views.compare(tree))
    if not asked:
        reroll_views.rerolls_view(facts, tree.origin)
