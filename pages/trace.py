"""Trace: any prompt or held-out problem, answered vanilla and steered side by side by the live model."""

import streamlit as st

from workbench.shared.view_page import need_run, page
from workbench.trace import view as trace_views
from workbench.trace import view_critical as critical_view
from workbench.trace import view_form as trace_form

with page("Trace", "One prompt, two answers decoded in lock-step: row by row the same step without and with steering."):
    facts = need_run("actions", "basis")
    trace_form.open_trace(facts)
    request = trace_form.trace_form(facts)
    below_button, finished = st.container(), st.empty()
    with below_button:  # what is being decoded, and why it is not, stand where the button was pressed
        if decoding := trace_form.trace_decoding(facts, request):
            trace_form.follow_trace(decoding, st.empty())
    with finished.container():
        trace_views.result(facts, request)
        critical_view.where_lost(facts, request)
        critical_view.what_steps_decided(facts, request)
