"""Basis: the library's map, its cosines in cluster order, the selected entries, and selections under other settings."""

import streamlit as st

from workbench.basis import view as views
from workbench.basis import view_map as lasso
from workbench.basis import view_selection as selection
from workbench.basis.view_map import action_map_view
from workbench.shared import view_card as card
from workbench.shared.view_page import need_entries, need_run, page

with page("Basis", "Geometry of the mined entries in the model's residual space, and the entries that selection kept."):
    facts = need_run("rollouts", "actions", "basis")
    need_entries(facts)
    left, right = st.columns([1.7, 1], gap="medium")
    with right:
        entry = card.choose_entry(facts)
        card.entry_head(facts, entry)
        card.neighbours_view(facts, entry, "keys")
        with st.container(horizontal=True, vertical_alignment="center"):
            views.card_link()
            lasso.all_coordinates(facts)
    with left:
        action_map_view(facts, entry.id)
    lasso.lasso_table(facts)
    shown = views.view()
    if shown == views.COSINES:
        views.heatmap_view(facts, entry.id)
    elif shown == views.REPLAY:
        selection.replay_view(facts)
    elif shown == views.AGAIN:
        selection.reselect_view(facts)
    else:
        views.coverage_view(facts)
