"""Two answers as they are decoded, and then read again: drawn as they come, and kept as far as they came."""

import time
from contextlib import closing
from typing import Any

import streamlit as st

from stir_core.errors import StirError
from stir_core.records import StepEvent, TokenEvent
from workbench import bootstrap, live, session
from workbench.live import Steering
from workbench.shared.run_facts import RunFacts
from workbench.shared.trace_comparison import ROWS, Recording
from workbench.trace.document import step_head
from workbench.trace.view_form import Request

_EVERY = 16
"""Tokens read between two looks at the page: its progress is drawn, and a press on Stop is heard."""


def stream(facts: RunFacts, request: Request, area: Any) -> None:
    """Decode both answers, drawing every token as it comes; what has come is kept even when the page is left or stopped."""
    if isinstance(request.question, str) and not request.question.strip():
        st.warning("The prompt is empty: write a question, or choose a held-out problem.")
        return
    recording = Recording(request.digest, request.settings)
    try:
        with area.container():
            _decode(facts, request, recording)
    except StirError:
        session.drop_recording()
        area.empty()
        raise


def _decode(facts: RunFacts, request: Request, recording: Recording) -> None:
    st.button("Stop decoding", key="trace_stop", help="Keeps what has been decoded so far.")
    with st.spinner("Loading the model (the first time takes a few seconds)"):
        steering = bootstrap.steering(facts)
    recording.identity = steering.identity
    session.keep_recording(recording)
    progress = st.empty()
    for column, name in zip(st.columns(2, gap="medium"), ROWS, strict=True):
        column.markdown(f"**{name}**")
    places: dict[tuple[int, int], Any] = {}
    with closing(live.events(steering, request.question, request.gate, request.decode, raw=request.raw)) as events:
        started = time.monotonic()
        for event in events:
            recording.take(event)
            recording.seconds = time.monotonic() - started
            if isinstance(event, TokenEvent | StepEvent):
                _draw(recording, event.row, event.m, places)
    _read(steering, request, recording, progress)


def _read(steering: Steering, request: Request, recording: Recording, progress: Any) -> None:
    """Read both answers again for what each token could have been; the answers themselves stand already."""
    traces = [trace for trace in recording.traces if trace is not None]
    total = sum(len(trace.token_ids) for trace in traces)
    started = time.monotonic()
    with closing(live.readings(steering, traces, request.gate)) as readings:
        for number, (row, reading) in enumerate(readings):
            recording.readings[row].append(reading)
            recording.reading_seconds = time.monotonic() - started
            if number % _EVERY == 0:
                progress.progress(number / max(1, total), "Reading both answers again, steered and unsteered")


def _draw(recording: Recording, row: int, m: int, places: dict[tuple[int, int], Any]) -> None:
    if (row, m) not in places:
        for number, column in enumerate(st.columns(2, gap="medium")):
            with column, st.container(border=True):
                places[number, m] = (st.empty(), st.empty())
    head, body = places[row, m]
    now = recording.steps[row][m]
    head.caption(step_head(now))
    body.text(now.text)
