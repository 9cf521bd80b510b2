"""Gates: what the gate retrieved, previewed, scored and did at every step of the recorded held-out answers."""

import streamlit as st

from workbench.components import gate_views as views
from workbench.components.page_frame import need_run, page

with page("Gates", "Recorded evidence of held-out answers: retrieve by key, preview, score against doing nothing, commit or leave it."):
    facts = need_run("actions", "steered")
    left, right = st.columns([1.7, 1], gap="medium")
    with left:
        trace = views.choose_answer(facts)
    with right:
        views.firing(facts)
    views.answer_margins(facts, trace)
    step = views.choose_step(trace)
    views.step_detail(facts.config.gate, step)
    views.answer_text(trace)
    views.reproduce(facts, trace)
