"""Basis: the library's map, its cosines in cluster order, and what selection kept."""

import streamlit as st

from workbench import session
from workbench.components import action_card as card
from workbench.components import basis_views as views
from workbench.components.page_frame import need_entries, need_run, page
from workbench.services.action_card import entry_of

with page("Basis", "How the mined entries lie in the model's residual space, and which of them selection kept."):
    facts = need_run("rollouts", "actions", "basis")
    need_entries(facts)
    left, right = st.columns([1.7, 1], gap="medium")
    with right:
        entry = entry_of(facts, session.choose(session.ACTION, "Entry", list(facts.entries)))
        card.headline(facts, entry)
        card.neighbours(facts, entry, "keys")
        views.card_link()
    with left:
        views.action_map_view(facts, entry.id)
    views.heatmap_view(facts, entry.id)
    views.coverage(facts)
