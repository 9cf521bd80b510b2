"""The Trace page's pieces: two answers as they stream, and the finished comparison step by step."""

import json
import time
from contextlib import closing
from typing import Any

import streamlit as st

from stir_core.config import GateConfig
from stir_core.errors import StirError
from stir_core.records import StepEvent, TokenEvent
from workbench import bootstrap, live, session
from workbench.components.column_styles import COST_COLUMNS
from workbench.components.command_line import command_line
from workbench.components.text_strip import text_strip
from workbench.components.trace_form import Request
from workbench.components.why_not import why_not
from workbench.services import trace_comparison as comparison
from workbench.services.command_lines import trace_command
from workbench.services.gate_evidence import reason
from workbench.services.run_facts import RunFacts
from workbench.services.text_segments import step_segments
from workbench.services.trace_comparison import ROWS, STEERED, VANILLA, Recording, StepRow
from workbench.services.visible_text import one_line, plain


def stream(facts: RunFacts, request: Request, area: Any) -> None:
    """Decode both answers, drawing every token as it comes; what has come is kept even when the page is left or stopped."""
    if not isinstance(request.question, str) or request.question.strip():
        recording = Recording(request.digest, request.settings)
        try:
            _decode(facts, request, area, recording)
        except StirError:
            session.drop_recording()
            area.empty()
            raise
    else:
        st.warning("The prompt is empty: write a question, or choose a held-out problem.")


def _decode(facts: RunFacts, request: Request, area: Any, recording: Recording) -> None:
    with area.container():
        st.button("Stop decoding", key="trace_stop", help="Keeps what has been decoded so far.")
        with st.spinner("Loading the model (the first time takes a few seconds)"):
            steering = bootstrap.steering(facts)
        recording.identity = steering.identity
        session.keep_recording(recording)
        _heads()
        places: dict[tuple[int, int], Any] = {}
        with closing(live.events(steering, request.question, request.gate, request.decode, raw=request.raw)) as events:
            started = time.monotonic()
            for event in events:
                recording.take(event)
                recording.seconds = time.monotonic() - started
                if isinstance(event, TokenEvent | StepEvent):
                    _draw_live(recording, event.row, event.step, places)


def _draw_live(recording: Recording, row: int, step: int, places: dict[tuple[int, int], Any]) -> None:
    if (row, step) not in places:
        for number, column in enumerate(st.columns(2, gap="medium")):
            with column, st.container(border=True):
                places[number, step] = (st.empty(), st.empty())
    head, body = places[row, step]
    now = recording.steps[row][step]
    head.caption(_head(now))
    body.text(now.text)


def result(facts: RunFacts, request: Request) -> None:
    """The last comparison of this tab: counts, equality check, and every step with the gate's decision under it."""
    recording = session.recording()
    if recording is None:
        st.caption("Nothing decoded yet in this tab. Both answers are decoded by one model in memory, vanilla and steered in lock-step.")
        command_line(_command(facts, request.settings))
        return
    if recording.digest != request.digest:
        fields = ", ".join(comparison.stale_fields(recording.settings, request.settings))
        st.warning(
            plain(f"Made with other settings than the form now shows ({fields}). Decode again to update. Result {recording.digest}.")
        )
    if not recording.complete:
        st.warning("Stopped before both answers had ended: counts are of what had been decoded.")
    _summary(recording)
    shaded = st.toggle(
        "Tint tokens by surprise", key="trace_shaded", help="Blue: −log-probability under the model that decoded it, full at 4 nats."
    )
    _heads()
    gate = GateConfig.model_validate(recording.settings["gate"])
    for step in range(1, recording.last_step + 1):
        _step(recording, step, gate, shaded)
    _exits(facts, recording)


def _summary(recording: Recording) -> None:
    equal, line = comparison.equality_line(recording)
    zero = recording.settings["gate"]["k_scale"] == 0
    with st.container(horizontal=True):
        if zero and recording.complete:
            st.badge(f"strength 0 {'equals' if equal else 'DIFFERS from'} vanilla: {line}", color="green" if equal else "red")
        elif equal:
            st.badge(f"same answer: {line}", color="gray")
        else:
            at = comparison.first_divergence(recording.ids(VANILLA), recording.ids(STEERED)) or 0
            step = comparison.step_of(recording, STEERED, at) or comparison.step_of(recording, VANILLA, at)
            st.badge(f"first difference: token {at + 1}, step {step}", color="orange")
        st.badge(f"settings {recording.digest}", color="gray")
        st.badge(f"{recording.seconds:.1f} s for both", color="gray", help="Wall-clock time; both answers share every forward pass.")
    st.dataframe(
        comparison.cost_table(recording),
        hide_index=True,
        placeholder="",
        column_config=COST_COLUMNS,
        alt="Verdicts and token counts of both answers",
    )


def _heads() -> None:
    for column, name in zip(st.columns(2, gap="medium"), ROWS, strict=True):
        column.markdown(f"**{name}**")


def _step(recording: Recording, step: int, gate: GateConfig, shaded: bool) -> None:
    rows = [recording.steps[number].get(step) for number in (VANILLA, STEERED)]
    same = rows[0] is not None and rows[1] is not None and [t.id for t in rows[0].tokens] == [t.id for t in rows[1].tokens]
    with st.container(gap="xsmall"):
        for number, (column, row) in enumerate(zip(st.columns(2, gap="medium"), rows, strict=True)):
            with column:
                if row is None:
                    st.caption(f"step {step} · the answer had ended")
                    continue
                first = sum(len(recording.steps[number][s].tokens) for s in recording.steps[number] if s < step)
                head = _head(row) + (" · same ids as vanilla" if same and number == STEERED else "")
                text_strip(step_segments(row, first), key=f"trace_{recording.digest}_{number}_{step}", shaded=shaded, head=head)
        steered = rows[STEERED]
        if steered is not None and steered.evidence is not None and steered.decision is not None:
            with st.expander(plain(f"gate before step {step}: {one_line(reason(steered.evidence, steered.decision), 140)}")):
                why_not(steered.evidence, steered.decision, gate)


def _head(row: StepRow) -> str:
    mark = f" · steered by {row.decision.chosen} × {row.decision.alpha:.2f}" if row.decision is not None and row.steered else ""
    return f"step {row.step} · {len(row.tokens)} tokens{mark}"


def _exits(facts: RunFacts, recording: Recording) -> None:
    command = _command(facts, recording.settings)
    command_line(command)
    data = json.dumps(comparison.download(recording, command), indent=1, ensure_ascii=False)
    name = f"trace_{facts.name}_{recording.digest}.json"
    st.download_button("Download both traces (JSON)", data, name, "application/json", key="trace_download", on_click="ignore")


def _command(facts: RunFacts, settings: dict[str, Any]) -> str:
    defaults = {"gate": facts.config.gate.model_dump(mode="json"), "decode": facts.config.decode.model_dump(mode="json")}
    changed = comparison.changed_settings(defaults, settings)
    return trace_command(facts.run, settings["problem"] or settings["question"], raw=settings["raw"], changed=changed)
