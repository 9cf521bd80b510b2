"""The Trace page's form, and the decoding and re-reading of both answers, followed token by token."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from stir_core.config import DecodeConfig, GateConfig, digest_of, with_changes
from stir_core.errors import line_of
from stir_core.evaluate.codes import Coder, coder_of
from stir_core.records import Problem, StepEvent, TokenEvent, Variant
from stir_core.saved import SavedTrace
from stir_core.store.saved import new_id
from workbench import bootstrap, session
from workbench.live import Decoding, ModelShelf, Steering
from workbench.shared.facts import RunFacts, run_fingerprint
from workbench.shared.text import one_line, plain, plural
from workbench.shared.trace_comparison import ROWS, Recording, outcome_line, recording_of, saved_trace, settings_of
from workbench.shared.trace_document import step_head
from workbench.shared.view_saved import followed, opened
from workbench.trace.data import FIELDS, drawing, examples, preset_of, presets

HELD_OUT, FREE = "Held-out problem", "Free prompt"
_PROMPT, _KIND = "trace_prompt", "trace_kind"
_FILLED = "trace_filled"
"""The comparison whose settings were last put into the form."""


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
    if session.first_state(_KIND, kinds[0]) not in kinds:
        session.set_state(_KIND, kinds[0])
    kind = st.segmented_control("Ask", kinds, required=True, key=_KIND, persist_state="session", label_visibility="collapsed")
    if kind == HELD_OUT and held_out:
        problem = held_out[session.choose_one(session.PROBLEM, "Held-out problem", list(held_out), facts.first_answer)]
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


def open_trace(facts: RunFacts) -> None:
    """Show the comparison that the address names, and put its settings into the form. Call before the form is drawn."""
    if (running := followed("trace")) is not None:
        recording: Recording = running.made
    elif (found := opened(facts, "trace")) is not None and isinstance(found[1], SavedTrace):
        recording = recording_of(found[0], found[1], run_fingerprint(facts.run))
        session.keep_recording(recording)
    else:
        return
    if session.state_of(_FILLED) != recording.id:
        _fill_with(facts, recording)


def _fill_with(facts: RunFacts, recording: Recording) -> None:
    settings = recording.settings
    problem = settings["problem"]
    if problem is not None and "steered" in facts.stages and problem in facts.held_out:
        session.point_unless_asked({session.PROBLEM: problem})
        _fill({_KIND: HELD_OUT})
    else:
        _fill({_KIND: FREE, _PROMPT: settings["question"], "trace_raw": settings["raw"]})
    _fill({_key(facts, field): settings["gate"][field] for field in FIELDS})
    _fill({_key(facts, "max_new_tokens"): settings["decode"]["max_new_tokens"], _FILLED: recording.id})


def trace_decoding(facts: RunFacts, request: TraceRequest) -> Decoding | None:
    """What this tab is to follow: begun now where the button was pressed, else begun earlier, here or in another tab.

    It goes on when the page is left; what it makes is saved at its end, also after Stop.
    """
    if not request.start:
        return followed("trace")
    if isinstance(request.question, str) and not request.question.strip():
        st.warning("The prompt is empty: write a question, or choose a held-out problem.")
        return None
    recording = Recording(request.digest, request.settings, id=new_id("trace"))
    shelf, saved, coder = bootstrap.shelf(), bootstrap.saved(), _coder(run_fingerprint(facts.run), facts)
    title = str(request.settings["question"])

    def work(decoding: Decoding) -> None:
        try:
            with shelf.lent(facts.run, run_fingerprint(facts.run)) as steering:
                recording.identity = steering.identity
                _answers(steering, request, recording, decoding)
                if not decoding.stopping:
                    _read(steering, request, recording, decoding)
            if coder is not None and recording.read:
                _code(shelf, coder, facts, recording)
        finally:
            if recording.events:
                saved.keep(
                    saved_trace(recording, facts.config.seed),
                    title=title,
                    outcome=outcome_line(recording),
                    run=facts.run,
                    model=recording.identity,
                    id_=recording.id,
                )

    session.keep_recording(None)
    session.set_state(_FILLED, recording.id)
    session.choose_saved(recording.id)
    return bootstrap.decodings().start(Decoding(recording.id, title, facts.name, recording), work)


def follow_trace(decoding: Decoding, area: DeltaGenerator) -> None:
    """Draw both answers as they grow, until the decoding ends."""
    recording: Recording = decoding.made
    with area.container():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Stop decoding", key="trace_stop", on_click=decoding.stop, help="Keeps the tokens decoded so far.")
            st.caption("Decoding goes on when you open another page, and its result is saved.")
        progress = st.empty()
        for column, name in zip(st.columns(2, gap="medium"), ROWS, strict=True):
            column.markdown(f"**{name}**")
        places: dict[tuple[int, int], tuple[DeltaGenerator, DeltaGenerator]] = {}
        read, began = 0, time.monotonic()
        for batch in decoding.follow():
            for row, m in dict.fromkeys((e.row, e.m) for e in batch if isinstance(e, TokenEvent | StepEvent)):
                _draw(recording, row, m, places)
            read += sum(isinstance(event, tuple) for event in batch)
            _progress(recording, read, time.monotonic() - began, progress)
    if recording.events:
        session.keep_recording(recording)
        session.saved_is_open(recording.id)
    else:
        session.forget_saved()
    area.empty()
    if decoding.fault is not None:
        st.error(plain(line_of(decoding.fault)))


def _progress(recording: Recording, read: int, waited: float, area: DeltaGenerator) -> None:
    if not recording.events:
        area.progress(0.0, f"Loading the model, once for this server: {waited:.0f} s so far. A busy machine needs up to a minute.")
    elif not recording.complete:
        area.progress(0.0, f"{plural(sum(isinstance(event, TokenEvent) for event in list(recording.events)), 'token')} decoded")
    else:
        total = sum(len(trace.token_ids) for trace in recording.traces if trace is not None)
        area.progress(min(1.0, read / max(1, total)), "Reading both answers again, steered and unsteered")


def _answers(steering: Steering, request: TraceRequest, recording: Recording, decoding: Decoding) -> None:
    """Decode both answers."""
    started = time.monotonic()
    for event in decoding.told(steering.compare(request.question, request.gate, request.decode, raw=request.raw)):
        recording.take(event)
        recording.seconds = time.monotonic() - started


def _read(steering: Steering, request: TraceRequest, recording: Recording, decoding: Decoding) -> None:
    """Read both finished answers again, steered and unsteered, for each token's alternatives and distributions."""
    traces = [trace for trace in recording.traces if trace is not None]
    started = time.monotonic()
    for row, reading in decoding.told(steering.read(traces, request.gate)):
        recording.readings[row].append(reading)
        recording.reading_seconds = time.monotonic() - started


def _code(shelf: ModelShelf, coder: Coder, facts: RunFacts, recording: Recording) -> None:
    """The codes of both answers' finished steps, where the run has a codebook: one more unsteered reading."""
    rows = [(row, trace) for row, trace in enumerate(recording.traces) if trace is not None]
    states = shelf.step_states(facts.run, [trace for _, trace in rows], tuple(coder.layers))
    for (row, _), seen in zip(rows, states, strict=True):
        recording.codes[row].update(enumerate(next(iter(coder.codes(seen).values()))))


@st.cache_resource(max_entries=4, show_spinner=False)
def _coder(print_of_run: str, _facts: RunFacts) -> Coder | None:
    return coder_of(_facts.run) if {"codes", "steps"} <= set(_facts.stages) else None


def _draw(recording: Recording, row: int, m: int, places: dict[tuple[int, int], tuple[DeltaGenerator, DeltaGenerator]]) -> None:
    if (row, m) not in places:
        for number, column in enumerate(st.columns(2, gap="medium")):
            with column, st.container(border=True):
                places[number, m] = (st.empty(), st.empty())
    head, body = places[row, m]
    now = recording.steps[row][m]
    head.caption(step_head(now))
    body.text(now.text)
