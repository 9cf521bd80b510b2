"""Evaluate: methods compared on the same held-out problems: accuracy, cost, flips, transfer."""

from workbench.components import evaluate_views as views
from workbench.components.flip_views import flip_views
from workbench.components.page_frame import need_run, page

with page("Evaluate", "Every method answered the same held-out problems with the same budget; differences are paired by problem."):
    facts = need_run("basis")
    evaluation = views.need_evaluation(facts)
    views.header(facts, evaluation)
    views.methods(evaluation)
    views.costs(evaluation)
    flip_views(facts, evaluation)
    views.transfer()
    views.exits(facts, evaluation)
