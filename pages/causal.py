"""Causal: effects of actions with everything else held equal, and how well the gate predicts them."""

from workbench.causal import view as views
from workbench.shared.view_page import need_run, page

with page(
    "Causal",
    "Answers continued from the same states and random streams: with an action, without it, and with noise of the same norm.",
):
    facts = need_run("actions", "basis", or_results=True)
    views.own(facts)
    study = views.need_study(facts)
    views.study_head(facts, study)
    views.arms(study)
    views.actions(facts, study)
    views.gate(facts, study)
    views.study_downloads(facts, study)
