"""Harvest: a new run from settings that say what they mean, what it will cost, and how it comes along."""

from workbench.harvest import view as form
from workbench.harvest import view_jobs as harvest_jobs
from workbench.shared.view_page import page

with page("Harvest", "A new run: sample, verify, mine, select, replay. It is the command line in a process of its own."):
    asked = form.run_form()
    if asked is not None:
        form.plan(asked)
    harvest_jobs.jobs_view()
