"""Export: a library for somewhere else: what leaves, what every target keeps and loses, and how it is served; before a byte is written."""

from workbench.export import view as views
from workbench.export import view_targets as targets
from workbench.shared.view_page import need_entries, need_run, page

with page(
    "Export", "Take a library elsewhere. Everything is shown before a byte is written: what leaves, what is lost, and how to serve it."
):
    facts = need_run("rollouts", "actions")
    need_entries(facts)
    choice = views.choose_library(facts)
    made = views.need_actions(facts, choice)
    views.cautions_view(facts, choice, made)
    views.contents(made)
    targets.targets_view(facts, choice, made)
