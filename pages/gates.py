"""Gates: the gate's retrieval, previews, scores and decision at every recorded step, and its decisions under other settings."""

from workbench.gates import view as settings
from workbench.gates import view_replay as whole
from workbench.gates.view_policies import compare_policies
from workbench.shared.view_page import lazy_tabs, need_run, page

with page("Gates", "Recorded evidence of held-out answers, decided again under the settings that you try. No model is called."):
    facts = need_run("actions", "steered")
    gate = settings.tried(facts)
    answers = whole.decided_again(facts, gate)
    whole.open_what_is_asked()
    lazy_tabs(
        whole.TAB,
        {
            whole.ONE: lambda: settings.one_answer(facts, gate, answers),
            whole.ALL: lambda: whole.all_answers(facts, gate, answers),
            whole.TWO: lambda: compare_policies(facts),
        },
    )
