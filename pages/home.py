"""Home: all runs, their held-out results, and whether the model in memory may use them."""

from workbench.home import view as views
from workbench.shared.view_page import need_run, page

with page("Runs", "One row per run. Accuracy is on held-out problems, the same ones for both arms; empty: not measured."):
    views.runs()
    facts = need_run()
    views.held_out_line(facts)
    views.recent_saved()
    views.stage_notes_view(facts)
    views.stages_and_model(facts)
    views.made_by(facts)
