"""Gates: the gate's retrieval, previews, scores and decision at every recorded step, and its decisions under other settings."""

import streamlit as st

from workbench.gates import view as settings
from workbench.gates import view_policies as gates
from workbench.gates import view_replay as whole
from workbench.shared.view_gate import answer_margins, choose_gate_step, step_detail
from workbench.shared.view_page import need_run, page

with page("Gates", "Recorded evidence of held-out answers, decided again under the settings that you try. No model is called."):
    facts = need_run("actions", "steered")
    gate = settings.tried(facts)
    answers = whole.decided_again(facts, gate)
    left, right = st.columns([1.5, 1], gap="medium")
    with left:
        trace = settings.choose_answer(facts)
    with right:
        whole.overview(facts, gate, answers)
    step = choose_gate_step(trace, list(facts.steered))
    changed = gate != facts.config.gate
    step_detail(gate, answers[trace.id].at(step.m) if step else None, changed=changed)
    answer_margins(facts, trace, answers[trace.id], changed=changed)
    left, right = st.columns([1.3, 1], gap="medium")
    with left:
        whole.margin_map_view(facts, answers, trace.id, step.m if step else None)
    with right:
        whole.flips(answers, changed=changed)
    settings.answer_text(trace)
    settings.reproduce(facts, gate, trace)
    gates.compare_policies(facts)
