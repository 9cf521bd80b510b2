"""The Trace page's form: what to ask, and the gate and decoding settings to ask it with. Starts from the run's own settings."""

from typing import Any, NamedTuple, get_args

import streamlit as st

from stir_core.config import DecodeConfig, GateConfig
from stir_core.records import Problem, Variant
from workbench import session
from workbench.services.run_facts import RunFacts, fingerprint
from workbench.services.trace_comparison import digest_settings, settings_of
from workbench.services.visible_text import plain

HELD_OUT, FREE = "Held-out problem", "Free prompt"


class Request(NamedTuple):
    """The form as it stands."""

    start: bool
    """True on the one run of the page in which the button was pressed."""
    question: str | Problem
    raw: bool
    gate: GateConfig
    decode: DecodeConfig
    settings: dict[str, Any]
    digest: str


def draw(facts: RunFacts) -> Request:
    """Draw the form and return its values, validated by the config's own rules."""
    left, right = st.columns([1.25, 1], gap="medium")
    with left:
        question, raw = _question(facts)
    with right:
        gate, decode = _settings(facts)
    with left:
        start = st.button("Decode both answers", type="primary", key="trace_start")
    problem_id = question.id if isinstance(question, Problem) else None
    text = question.question if isinstance(question, Problem) else question
    settings = settings_of(fingerprint(facts.run), text, problem_id, gate, decode, raw=raw)
    return Request(start, question, raw, gate, decode, settings, digest_settings(settings))


def _question(facts: RunFacts) -> tuple[str | Problem, bool]:
    held_out = facts.held_out if "steered" in facts.stages else {}
    kinds = [HELD_OUT, FREE] if held_out else [FREE]
    kind = st.segmented_control(
        "Ask", kinds, default=kinds[0], required=True, key="trace_kind", persist_state="session", label_visibility="collapsed"
    )
    if kind == HELD_OUT and held_out:
        problem = held_out[session.choose(session.PROBLEM, "Held-out problem", list(held_out))]
        st.text(problem.question)
        level = f" · level {problem.level}" if problem.level else ""
        st.caption(plain(f"gold answer {problem.answer}{level}; never mined"))
        return problem, False
    prompt = st.text_area("Prompt", key="trace_prompt", height=110, persist_state="session", placeholder="A question for the model")
    raw = st.toggle(
        "Raw", key="trace_raw", persist_state="session", help="Send the text as it is, without the task's template and the chat template."
    )
    return prompt or "", raw


def _settings(facts: RunFacts) -> tuple[GateConfig, DecodeConfig]:
    gate, decode = facts.config.gate, facts.config.decode
    one, two, three = st.columns(3)
    with one:
        k_scale = _number(facts, "Strength (k_scale)", "k_scale", gate.k_scale, 0.0, 10.0, 0.05, "%.2f")
        candidates = _number(facts, "Candidates L", "candidates", gate.candidates, 1, 64, 1)
    with two:
        variant = _choice(facts, "Variant", "variant", get_args(Variant), gate.variant)
        probe = _number(facts, "Probe tokens", "probe_tokens", gate.probe_tokens, 1, 64, 1)
    with three:
        persistence = _choice(facts, "Persistence", "persistence", ("ephemeral", "persistent"), gate.persistence)
        tokens = _number(facts, "Max tokens", "max_new_tokens", decode.max_new_tokens, 1, 16384, 16, config=DecodeConfig)
    changed = {
        "k_scale": float(k_scale),
        "candidates": int(candidates),
        "probe_tokens": int(probe),
        "variant": variant,
        "persistence": persistence,
    }
    rest = (
        f"β {gate.beta:g}, ρ {gate.rho:g}, k {gate.k_retrieve}, τ {gate.tau_null:g}, min sim {gate.min_sim:g}, preview {gate.preview_scale}"
    )
    how = "greedy" if decode.temperature == 0 else f"temperature {decode.temperature:g}, seed {facts.config.seed}"
    st.caption(plain(f"From the run: {rest}; {how}. Fields start at the run's own values."))
    return (
        GateConfig.model_validate(gate.model_dump() | changed),
        DecodeConfig.model_validate(decode.model_dump() | {"max_new_tokens": int(tokens)}),
    )


def _number(
    facts: RunFacts,
    label: str,
    field: str,
    value: Any,
    low: Any,
    high: Any,
    step: Any,
    form: str | None = None,
    *,
    config: Any = GateConfig,
) -> float:
    text = config.model_fields[field].description
    key = f"trace_{field}_{facts.name}"
    return st.number_input(label, low, max(high, value), value, step, format=form, key=key, help=text, persist_state="session")


def _choice(facts: RunFacts, label: str, field: str, options: tuple[str, ...], value: str) -> str:
    text, key = GateConfig.model_fields[field].description, f"trace_{field}_{facts.name}"
    chosen = st.selectbox(label, options, options.index(value), key=key, help=text, persist_state="session")
    return chosen if chosen in options else value
