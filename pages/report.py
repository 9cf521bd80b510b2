"""Report: figures and numbers of the run as one HTML file that opens offline."""

from workbench.report import view as views
from workbench.shared.view_page import need_run, page

with page("Report", "Figures and numbers of the run, or of a selection, as one HTML file that opens offline."):
    facts = need_run()
    views.choose_and_write(facts)
