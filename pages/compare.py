"""Compare: two libraries of one model (shared, gained and lost actions, spans), or several runs on the same problems."""

from workbench.compare.view import two_libraries
from workbench.compare.view_several import several_runs
from workbench.shared.view_page import lazy_tabs, need_run, page

with page("Compare", "Two libraries of one model action by action, or any number of runs on the problems that all of them answered."):
    facts = need_run("actions", or_results=True)
    libraries = {} if facts.run.results_only else {"Two libraries": lambda: two_libraries(facts)}
    lazy_tabs("compare_tab", {**libraries, "Several runs": lambda: several_runs(facts)})
