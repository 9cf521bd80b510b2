"""Saved: traces, what-if branches, measured impulses and re-decisions that were made in the workbench."""

from workbench.saved import view as views
from workbench.shared.view_page import page
from workbench.shared.view_saved import decoding_now

with page("Saved", "What was decoded and measured here, with the settings and the model that made it. It outlives reloads and restarts."):
    decoding_now()
    work = views.saved_list()
    if work is not None:
        views.saved_work(work)
    views.add_saved()
