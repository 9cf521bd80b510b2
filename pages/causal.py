"""Causal: what actions do when nothing else differs, and whether the gate knew."""

from workbench.causal import view as views
from workbench.shared.view_page import need_run, page

with page(
    "Causal", "Answers continued from the same states with the same random streams: with an action, without it, and with noise of its size."
):
    facts = need_run("actions", "basis")
    study = views.need_study(facts)
    views.study_head(facts, study)
    views.arms(study)
    views.actions(facts, study)
    views.gate(facts, study)
    views.study_downloads(facts, study)
