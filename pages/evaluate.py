"""Evaluate: methods compared on the same held-out problems: accuracy, cost, flips, transfer."""

from workbench.evaluate import view as views
from workbench.shared.view_page import need_run, page

with page("Evaluate", "Every method answered the same held-out problems with the same budget; differences are paired by problem."):
    facts = need_run("basis", or_results=True)
    evaluation = views.need_evaluation(facts)
    views.evaluation_head(facts, evaluation)
    views.tabs(facts, evaluation)
    views.evaluation_downloads(facts, evaluation)
