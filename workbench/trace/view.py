"""The Trace page's finished comparison: what came out, token by token and step by step, and ways to take it away."""

import json
from typing import Any

import streamlit as st

from stir_core.config import DecodeConfig, GateConfig
from workbench import session
from workbench.shared import trace_comparison as comparison
from workbench.shared.command_lines import trace_command
from workbench.shared.run_facts import RunFacts
from workbench.shared.trace_comparison import STEERED, VANILLA, Recording
from workbench.shared.view_columns import COST_COLUMNS, DEGENERATION_COLUMNS
from workbench.shared.view_command import command_line
from workbench.shared.visible_text import one_line, plain
from workbench.trace.document import document, reading_line
from workbench.trace.html_file import html
from workbench.trace.presets import drawing
from workbench.trace.view_form import Request
from workbench.trace.view_tokens import token_strip


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
    elif not recording.read:
        st.warning("Stopped before both answers had been read again: some tokens have no alternatives and no KL.")
    _summary(facts, recording)
    _tables(recording)
    token_strip(document(recording, GateConfig.model_validate(recording.settings["gate"])), key="trace_tokens")
    _exits(facts, recording)


def _summary(facts: RunFacts, recording: Recording) -> None:
    decode = DecodeConfig.model_validate(recording.settings["decode"])
    equal, line = comparison.equality_line(recording)
    zero = recording.settings["gate"]["k_scale"] == 0
    with st.container(horizontal=True):
        if zero and recording.complete:
            st.badge(f"strength 0 {'equals' if equal else 'DIFFERS from'} vanilla: {line}", color="green" if equal else "red")
        elif equal:
            st.badge(f"same answer: {line}", color="gray")
        else:
            at = comparison.first_divergence(recording.ids(VANILLA), recording.ids(STEERED)) or 0
            longer = STEERED if len(recording.ids(STEERED)) > at else VANILLA
            st.badge(f"first difference: token {at + 1}, after control point {comparison.m_of(recording, longer, at)}", color="orange")
        st.badge(f"settings {recording.digest}", color="gray")
        st.badge(drawing(decode, facts.config.seed), color="gray", help="Equal seeds and settings give equal answers.")
        st.badge(f"{recording.seconds:.1f} s for both", color="gray", help="Wall-clock time; both answers share every forward pass.")
        text = "After decoding, every token is read once more, under the model that decoded it and under the unsteered model."
        st.badge(plain(reading_line(recording)), color="gray", help=text)


def _tables(recording: Recording) -> None:
    left, right = st.columns([2, 1], gap="medium")
    left.dataframe(
        comparison.cost_table(recording),
        hide_index=True,
        placeholder="",
        column_config=COST_COLUMNS,
        alt="Verdicts and token counts of both answers",
    )
    right.dataframe(
        comparison.degeneration_table(recording),
        hide_index=True,
        placeholder="",
        column_config=DEGENERATION_COLUMNS,
        alt="How repetitive both answers are",
    )


def _exits(facts: RunFacts, recording: Recording) -> None:
    command = _command(facts, recording.settings)
    command_line(command)
    stem, seed = f"trace_{facts.name}_{recording.digest}", facts.config.seed
    title = f"{facts.name}: {one_line(recording.settings['question'], 60)}"

    def as_json() -> str:
        return json.dumps(comparison.download(recording, command) | {"seed": seed}, indent=1, ensure_ascii=False)

    with st.container(horizontal=True):
        st.download_button(
            "Download both traces (JSON)", as_json, f"{stem}.json", "application/json", key="trace_download", on_click="ignore"
        )
        st.download_button(
            "Download as one HTML file",
            lambda: html(recording, command, seed=seed, title=title),
            f"{stem}.html",
            "text/html",
            key="trace_html",
            on_click="ignore",
            help="Opens offline in any browser: both answers with everything that this page shows of them.",
        )


def _command(facts: RunFacts, settings: dict[str, Any]) -> str:
    defaults = {"gate": facts.config.gate.model_dump(mode="json"), "decode": facts.config.decode.model_dump(mode="json")}
    changed = comparison.changed_settings(defaults, settings)
    return trace_command(facts.run, settings["problem"] or settings["question"], raw=settings["raw"], changed=changed)
