"""One gate decision taken apart: the funnel, the reason, and the why-not table. Shared by Gates and Trace."""

import streamlit as st

from stir_core.config import GateConfig
from stir_core.records import Decision, StepEvidence
from workbench.components.column_styles import CANDIDATE_COLUMNS
from workbench.services.gate_evidence import candidate_table, funnel, reason
from workbench.services.visible_text import plain


def why_not(evidence: StepEvidence, decision: Decision, gate: GateConfig) -> None:
    """Draw a decision in full."""
    sieve = funnel(evidence, decision)
    st.markdown(
        f"library at m = {evidence.m}: **{sieve.library}** → retrieved **{sieve.retrieved}** → candidates **{sieve.candidates}** "
        f"→ committed **{sieve.committed}**"
    )
    st.text(reason(evidence, decision))
    if not evidence.retrieved:
        return
    st.dataframe(
        candidate_table(evidence, decision), hide_index=True, placeholder="", column_config=CANDIDATE_COLUMNS, alt="Candidates of this step"
    )
    null_score = "not measured" if decision.score_null is None else f"{decision.score_null:.3f}"
    null_preview = "not measured" if evidence.null_logprob is None else f"{evidence.null_logprob:.3f} nats a token"
    formula = f"score = {gate.beta:g} A + {gate.rho:g} gain"
    st.caption(plain(f"{formula}; null score {null_score}; unsteered preview {null_preview}; strength {gate.k_scale:g}."))
