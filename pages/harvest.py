"""Harvest: settings of a new run, its expected cost, and its progress."""

from workbench.harvest import view as form
from workbench.harvest import view_jobs as harvest_jobs
from workbench.shared.view_page import page

with page("Harvest", "A new run: sample, verify, mine, select, replay. It runs the command line in a separate process."):
    asked = form.run_form()
    if asked is not None:
        form.plan(asked)
    harvest_jobs.jobs_view()
