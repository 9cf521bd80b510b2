"""Home: what this is about, what is known of the open run, recent work, all runs, and the model in memory."""

from workbench.home import view as views
from workbench.home import view_start as start
from workbench.shared.view_page import need_run, page

with page("Home", "Find latent actions in a model's own rollouts, steer with them, and see how sure their effect is."):
    start.what_it_is()
    views.recent_saved()
    views.runs()
    facts = need_run()
    start.what_is_known(facts)
    views.held_out_line(facts)
    views.stage_notes_view(facts)
    views.stages_and_model(facts)
    views.made_by(facts)
