"""Compare: two runs or two versions of a library of one model: shared, gained and lost actions, spans, settings, evaluations."""

from workbench.compare import view as views
from workbench.shared.view_page import need_entries, need_run, page

with page("Compare", "Two libraries of one model: the same action is the same direction at the same control point and layer."):
    facts = need_run("actions")
    need_entries(facts)
    chosen = views.need_other(facts)
    views.shared_view(chosen)
    views.evaluated(chosen)
    views.settings(chosen)
    views.as_command(chosen)
