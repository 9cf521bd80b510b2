"""Export: a library for another system: its content, what every target keeps and loses, and how to serve it."""

from workbench.export import view as views
from workbench.export import view_targets as targets
from workbench.shared.view_page import need_entries, need_run, page

with page(
    "Export", "A library for another system. Before anything is written, the page shows its content, its losses, and how to serve it."
):
    facts = need_run("rollouts", "actions")
    need_entries(facts)
    choice = views.choose_library(facts)
    made = views.need_actions(facts, choice)
    views.cautions_view(facts, choice, made)
    views.contents(made)
    targets.targets_view(facts, choice, made)
