"""The Trace page's form: what to ask, and the gate and decoding settings to ask it with. Starts from the run's own settings."""

from typing import Any, NamedTuple, get_args

import streamlit as st

from stir_core.config import DecodeConfig, GateConfig
from stir_core.records import Problem, Variant
from workbench import session
from workbench.shared.run_facts import RunFacts, fingerprint
from workbench.shared.trace_comparison import digest_settings, settings_of
from workbench.shared.visible_text import one_line, plain
from workbench.trace.presets import drawing, examples, preset_of, presets

HELD_OUT, FREE = "Held-out problem", "Free prompt"
_PROMPT = "trace_prompt"


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
        _presets(facts)
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
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Examples")
        for number, example in enumerate(examples(held_out or facts.problems)):
            label = plain(one_line(example, 34))
            st.button(
                label, key=f"trace_example_{number}", type="tertiary", help=plain(example), on_click=_fill, args=({_PROMPT: example},)
            )
    prompt = st.text_area("Prompt", key=_PROMPT, height=110, persist_state="session", placeholder="A question for the model")
    raw = st.toggle(
        "Raw", key="trace_raw", persist_state="session", help="Send the text as it is, without the task's template and the chat template."
    )
    return prompt or "", raw


def _presets(facts: RunFacts) -> None:
    with st.container(horizontal=True, gap="xsmall"):
        for number, (name, values) in enumerate(presets(facts.config.gate).items()):
            fields = {_key(facts, field): value for field, value in values.items()}
            st.button(name, key=f"trace_preset_{number}", on_click=_fill, args=(fields,))


def _fill(values: dict[str, Any]) -> None:
    for key, value in values.items():
        st.session_state[key] = value


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
    shown = GateConfig.model_validate(gate.model_dump() | changed)
    rest = (
        f"β {gate.beta:g}, ρ {gate.rho:g}, k {gate.k_retrieve}, τ {gate.tau_null:g}, min sim {gate.min_sim:g}, preview {gate.preview_scale}"
    )
    st.caption(plain(f"Preset: {preset_of(gate, shown) or 'none'}. Of the run: {rest}; {drawing(decode, facts.config.seed)}."))
    return shown, DecodeConfig.model_validate(decode.model_dump() | {"max_new_tokens": int(tokens)})


def _key(facts: RunFacts, field: str) -> str:
    return f"trace_{field}_{facts.name}"


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
    key = _seed(facts, field, value)
    text = config.model_fields[field].description
    return st.number_input(label, low, max(high, 2 * value), step=step, format=form, key=key, help=text, persist_state="session")


def _choice(facts: RunFacts, label: str, field: str, options: tuple[str, ...], value: str) -> str:
    key = _seed(facts, field, value)
    chosen = st.selectbox(label, options, key=key, help=GateConfig.model_fields[field].description, persist_state="session")
    return chosen if chosen in options else value


def _seed(facts: RunFacts, field: str, value: Any) -> str:
    """The widget's key, at the run's own value first; presets write to it, so the widget must not be given a value of its own."""
    key = _key(facts, field)
    st.session_state.setdefault(key, value)
    return key
