"""The Trace page's form, and the decoding and re-reading of both answers, shown token by token."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import Any, NamedTuple, get_args

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from stir_core.config import DecodeConfig, GateConfig, digest_of, with_changes
from stir_core.errors import FAULTS
from stir_core.evaluate.codes import Coder, coder_of
from stir_core.records import Problem, StepEvent, TokenEvent, Variant
from workbench import bootstrap, session
from workbench.live import Steering
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.text import one_line, plain
from workbench.shared.trace_comparison import ROWS, Recording, settings_of
from workbench.shared.trace_document import step_head
from workbench.trace.data import drawing, examples, preset_of, presets

HELD_OUT, FREE = "Held-out problem", "Free prompt"
_PROMPT = "trace_prompt"


class TraceRequest(NamedTuple):
    """The values of the form."""

    start: bool
    """True on the one run of the page in which the button was pressed."""
    question: str | Problem
    raw: bool
    gate: GateConfig
    decode: DecodeConfig
    settings: dict[str, Any]
    digest: str


def trace_form(facts: RunFacts) -> TraceRequest:
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
    settings = settings_of(run_fingerprint(facts.run), text, problem_id, gate, decode, raw=raw)
    return TraceRequest(start, question, raw, gate, decode, settings, digest_of(settings))


def _question(facts: RunFacts) -> tuple[str | Problem, bool]:
    held_out = facts.held_out if "steered" in facts.stages else {}
    kinds = [HELD_OUT, FREE] if held_out else [FREE]
    kind = st.segmented_control(
        "Ask", kinds, default=kinds[0], required=True, key="trace_kind", persist_state="session", label_visibility="collapsed"
    )
    if kind == HELD_OUT and held_out:
        problem = held_out[session.choose_one(session.PROBLEM, "Held-out problem", list(held_out))]
        st.text(problem.question)
        level = f" · level {problem.level}" if problem.level else ""
        st.caption(plain(f"gold answer {problem.answer}{level}; not used for mining"))
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


def _fill(values: Mapping[str, object]) -> None:
    for key, value in values.items():
        session.set_state(key, value)


def _settings(facts: RunFacts) -> tuple[GateConfig, DecodeConfig]:
    gate, decode = facts.config.gate, facts.config.decode
    one, two, three = st.columns(3)
    with one:
        k_scale = _number(facts, gate, "k_scale", "Strength (k_scale)", (0.0, 10.0, 0.05))
        candidates = _number(facts, gate, "candidates", "Candidates L", (1, 64, 1))
    with two:
        variant = _choice(facts, "variant", "Variant", get_args(Variant))
        probe = _number(facts, gate, "probe_tokens", "Probe tokens", (1, 64, 1))
    with three:
        persistence = _choice(facts, "persistence", "Persistence", ("ephemeral", "persistent"))
        tokens = _number(facts, decode, "max_new_tokens", "Max tokens", (1, 16384, 16))
    shown = with_changes(
        gate, k_scale=k_scale, candidates=int(candidates), probe_tokens=int(probe), variant=variant, persistence=persistence
    )
    rest = (
        f"β {gate.beta:g}, ρ {gate.rho:g}, k {gate.k_retrieve}, τ {gate.tau_null:g}, min sim {gate.min_sim:g}, preview {gate.preview_scale}"
    )
    st.caption(plain(f"Preset: {preset_of(gate, shown) or 'none'}. Of the run: {rest}; {drawing(decode, facts.config.seed)}."))
    return shown, with_changes(decode, max_new_tokens=int(tokens))


def _key(facts: RunFacts, field: str) -> str:
    return f"trace_{field}_{facts.name}"


def _number(facts: RunFacts, own: GateConfig | DecodeConfig, field: str, label: str, span: tuple[float, float, float]) -> float:
    """A number of the run's own settings; ``span``: least, most (twice the run's own value where that is more), step."""
    low, high, step = span
    key, text = _seed(facts, own, field)
    form = "%.2f" if isinstance(step, float) else None
    most = max(high, 2 * getattr(own, field))
    return st.number_input(label, low, most, step=step, format=form, key=key, help=text, persist_state="session")


def _choice(facts: RunFacts, field: str, label: str, options: tuple[str, ...]) -> str:
    key, text = _seed(facts, facts.config.gate, field)
    return st.selectbox(label, options, key=key, help=text, persist_state="session")


def _seed(facts: RunFacts, own: GateConfig | DecodeConfig, field: str) -> tuple[str, str | None]:
    """The widget's key and its help. The key starts at the run's own value; presets write to it, so the widget has no default."""
    key = _key(facts, field)
    session.first_state(key, getattr(own, field))
    return key, type(own).model_fields[field].description


_EVERY = 16
"""Tokens read between two updates of the page, which draw progress and react to Stop."""


def stream(facts: RunFacts, request: TraceRequest, area: DeltaGenerator) -> None:
    """Decode both answers, drawing every token as it comes; tokens are kept when the page is left or decoding is stopped."""
    if isinstance(request.question, str) and not request.question.strip():
        st.warning("The prompt is empty: write a question, or choose a held-out problem.")
        return
    recording = Recording(request.digest, request.settings)
    try:
        with area.container():
            _decode(facts, request, recording)
    except FAULTS:
        session.keep_recording(None)
        area.empty()
        raise


def _decode(facts: RunFacts, request: TraceRequest, recording: Recording) -> None:
    st.button("Stop decoding", key="trace_stop", help="Keeps the tokens decoded so far.")
    with ExitStack() as held:
        with st.spinner("Loading the model (the first time takes a few seconds)"):
            steering = held.enter_context(bootstrap.steering(facts))
        recording.identity = steering.identity
        session.keep_recording(recording)
        progress = st.empty()
        for column, name in zip(st.columns(2, gap="medium"), ROWS, strict=True):
            column.markdown(f"**{name}**")
        _answers(steering, request, recording)
        _read(steering, request, recording, progress)
        _code(facts, recording)


def _answers(steering: Steering, request: TraceRequest, recording: Recording) -> None:
    """Decode both answers; each token is drawn as it comes."""
    places: dict[tuple[int, int], tuple[DeltaGenerator, DeltaGenerator]] = {}
    with closing(steering.compare(request.question, request.gate, request.decode, raw=request.raw)) as events:
        started = time.monotonic()
        for event in events:
            recording.take(event)
            recording.seconds = time.monotonic() - started
            if isinstance(event, TokenEvent | StepEvent):
                _draw(recording, event.row, event.m, places)


def _read(steering: Steering, request: TraceRequest, recording: Recording, progress: DeltaGenerator) -> None:
    """Read both finished answers again, steered and unsteered, for each token's alternatives and distributions."""
    traces = [trace for trace in recording.traces if trace is not None]
    total = sum(len(trace.token_ids) for trace in traces)
    started = time.monotonic()
    with closing(steering.read(traces, request.gate)) as readings:
        for number, (row, reading) in enumerate(readings):
            recording.readings[row].append(reading)
            recording.reading_seconds = time.monotonic() - started
            if number % _EVERY == 0:
                progress.progress(number / max(1, total), "Reading both answers again, steered and unsteered")


def _code(facts: RunFacts, recording: Recording) -> None:
    """The codes of both answers' finished steps, where the run has a codebook: one more unsteered reading."""
    coder = _coder(run_fingerprint(facts.run), facts) if {"codes", "steps"} <= set(facts.stages) else None
    if coder is None:
        return
    rows = [(row, trace) for row, trace in enumerate(recording.traces) if trace is not None]
    states = bootstrap.shelf().step_states(facts.run, [trace for _, trace in rows], tuple(coder.layers))
    for (row, _), seen in zip(rows, states, strict=True):
        recording.codes[row].update(enumerate(next(iter(coder.codes(seen).values()))))


@st.cache_resource(max_entries=4, show_spinner=False)
def _coder(print_of_run: str, _facts: RunFacts) -> Coder | None:
    return coder_of(_facts.run)


def _draw(recording: Recording, row: int, m: int, places: dict[tuple[int, int], tuple[DeltaGenerator, DeltaGenerator]]) -> None:
    if (row, m) not in places:
        for number, column in enumerate(st.columns(2, gap="medium")):
            with column, st.container(border=True):
                places[number, m] = (st.empty(), st.empty())
    head, body = places[row, m]
    now = recording.steps[row][m]
    head.caption(step_head(now))
    body.text(now.text)
