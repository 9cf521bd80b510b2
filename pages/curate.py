"""Curate: star, tag, note, exclude, rename and merge entries; every edit is kept with author, time and reason."""

import streamlit as st

from workbench.curate import view as views
from workbench.shared import view_card as card
from workbench.shared.view_page import need_entries, need_run, page

with page(
    "Curate", "Judge the library entry by entry. Nothing is deleted: every edit is kept with author, time and reason, and can be undone."
):
    facts = need_run("rollouts", "actions")
    need_entries(facts)
    curation = views.need_history(facts)
    selected = views.library(facts, curation)
    views.edit_selection(facts, curation, selected)
    left, right = st.columns([1, 1])
    with left:
        entry = card.choose_entry(facts, width=220)
        card.entry_head(facts, entry)
        card.advantage(facts.advantages.get(entry.id))
        card.controls(facts, entry)
        views.note(facts, curation, entry.id)
    with right:
        views.history(facts, curation)
        views.versions_view(curation)
    views.library_now(facts, curation)
    views.as_commands(facts)
