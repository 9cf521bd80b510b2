"""One gate decision taken apart: the funnel, the reason, and the why-not table. Shared by Gates and Trace."""

import pandas as pd
import streamlit as st

from stir_core.config import GateConfig
from stir_core.intervene.replay import Again
from stir_core.records import Decision, StepEvidence
from workbench.gates.data import why_not_rows
from workbench.shared.gate_evidence import candidate_table, funnel
from workbench.shared.view_columns import CANDIDATE_COLUMNS
from workbench.shared.visible_text import plain


def why_not(evidence: StepEvidence, decision: Decision, gate: GateConfig) -> None:
    """Draw a decision in full."""
    sieve_line(evidence, decision)
    st.text(str(decision.reason))
    if evidence.retrieved:
        _candidates(candidate_table(evidence, decision))
        _numbers(evidence, decision, gate)


def why_not_again(evidence: StepEvidence, decision: Decision, again: Again, gate: GateConfig) -> None:
    """Draw a recorded decision beside the one that ``gate``, which is being tried, takes at the same step."""
    sieve_line(evidence, decision)
    now = again.missing if again.decision is None else again.decision.reason
    st.text(f"recorded: {decision.reason}\nnow: {now if again.decision else f'not in the recording, needs the model: {now}'}")
    if evidence.retrieved:
        _candidates(why_not_rows(evidence, decision, again))
        _numbers(evidence, again.decision or decision, gate)


def sieve_line(evidence: StepEvidence, decision: Decision) -> None:
    """The funnel in one line, as recorded."""
    sieve = funnel(evidence, decision)
    st.markdown(
        f"library at m = {evidence.m}: **{sieve.library}** → retrieved **{sieve.retrieved}** → candidates **{sieve.candidates}** "
        f"→ committed **{sieve.committed}**"
    )


def _candidates(table: pd.DataFrame) -> None:
    columns = {name: CANDIDATE_COLUMNS[name] for name in table.columns}
    st.dataframe(table, hide_index=True, placeholder="", column_config=columns, alt="Candidates of this step")


def _numbers(evidence: StepEvidence, decision: Decision, gate: GateConfig) -> None:
    null_score = "not measured" if decision.score_null is None else f"{decision.score_null:.3f}"
    null_preview = "not measured" if evidence.null_logprob is None else f"{evidence.null_logprob:.3f} nats a token"
    formula = f"score = {gate.beta:g} A + {gate.rho:g} gain"
    st.caption(plain(f"{formula}; null score {null_score}; unsteered preview {null_preview}; strength {gate.k_scale:g}."))
