"""Actions: the library as a sortable table, and one entry's card: source, neighbours, meaning, effect of its impulse, firings."""

import streamlit as st

from workbench.actions.view import action_list, source
from workbench.actions.view_impulse import impulse, open_impulse
from workbench.actions.view_meaning import meaning
from workbench.shared import view_card as card
from workbench.shared.view_page import need_entries, need_run, page

with page(
    "Actions",
    "One row per latent action: mean state of right answers minus that of wrong ones, at one control point and layer.",
):
    facts = need_run("rollouts", "actions")
    need_entries(facts)
    open_impulse(facts)
    action_list(facts)
    entry = card.choose_entry(facts, width=220)
    card.entry_head(facts, entry)
    card.advantage(facts.advantages.get(entry.id))
    card.controls(facts, entry)
    source(facts, entry)
    left, middle, right = st.columns([1.15, 1, 1])
    with left:
        card.lens(facts, entry)
    with middle:
        card.neighbours_view(facts, entry, "actions")
    with right:
        card.neighbours_view(facts, entry, "keys")
    meaning(facts, entry)
    impulse(facts, entry)
    card.firings_view(facts, entry)
