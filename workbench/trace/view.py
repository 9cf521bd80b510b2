"""The Trace page's finished comparison: summary, tables, both answers token by token, and downloads."""

import json
from typing import Any

import streamlit as st
from streamlit import column_config as cc

from stir_core.config import DecodeConfig
from stir_core.records import Problem
from workbench import session
from workbench.bootstrap import PAGES
from workbench.shared import trace_comparison as comparison
from workbench.shared.branching import compared_origin
from workbench.shared.command_lines import PROMPT_FILE, trace_command
from workbench.shared.facts import RunFacts
from workbench.shared.text import one_line, plain, trace_segments
from workbench.shared.trace_comparison import STEERED, VANILLA, Recording
from workbench.shared.trace_document import html, reading_line
from workbench.shared.view_fork import clicked_token, fork_dialog, token_strip
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import Columns, data_table, number_column
from workbench.shared.view_text import text_strip
from workbench.trace.data import drawing
from workbench.trace.view_form import TraceRequest


def result(facts: RunFacts, request: TraceRequest) -> None:
    """The last comparison of this tab: counts, equality check, and every step with the gate's decision under it."""
    recording = session.recording()
    if recording is None:
        _as_recorded(facts, request)
        st.caption(
            "Nothing decoded in this tab yet. Both answers are decoded by the one model in memory, vanilla and steered in lock-step."
        )
        command_line(_command(facts, request.settings, instead=PROMPT_FILE))
        return
    if recording.digest != request.digest:
        fields = ", ".join(comparison.stale_fields(recording.settings, request.settings))
        st.warning(
            plain(f"Made with other settings than the form now shows ({fields}): decode again to update. Result {recording.digest}.")
        )
    if not recording.complete:
        st.warning("Stopped before both answers had ended: counts cover the tokens decoded so far.")
    elif not recording.read:
        st.warning("Stopped before both answers were read again: some tokens have no alternatives and no KL.")
    _summary(facts, recording)
    left, right = st.columns([2, 1], gap="medium")
    with left:
        data_table(comparison.cost_table(recording), COST_COLUMNS, "Verdicts and token counts of both answers")
    with right:
        data_table(comparison.degeneration_table(recording), DEGENERATION_COLUMNS, "How repetitive both answers are")
    token_strip(recording, "trace_tokens")
    _ask_fork(facts, recording)
    if any(recording.codes):
        st.caption("Coloured number before a step: its code in the run's codebook (page Codebook); equal numbers are alike steps.")
    _downloads(facts, recording)


def _ask_fork(facts: RunFacts, recording: Recording) -> None:
    """Ask how an answer goes on from a token that was just clicked."""
    if (clicked := clicked_token(recording)) is None:
        return
    of = comparison.ROWS[clicked.row]
    origin = compared_origin(facts, recording, of)
    if origin is not None and clicked.position < len(origin.trace.token_ids):
        fork_dialog(facts, origin, (), clicked, f"the {of} answer")


def _as_recorded(facts: RunFacts, request: TraceRequest) -> None:
    """Both answers to a held-out problem as the run recorded them; they need no model."""
    problem = request.question if isinstance(request.question, Problem) else None
    if problem is None or problem.id not in facts.steered or problem.id not in facts.vanilla:
        return
    st.caption("As recorded in the run, with its own settings.")
    for column, name, answers in zip(st.columns(2, gap="medium"), comparison.ROWS, (facts.vanilla, facts.steered), strict=True):
        trace = answers[problem.id]
        grade = {None: "not graded", True: "right", False: "wrong"}[trace.verdict and trace.verdict.correct]
        with column:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{name}**")
                st.badge(grade, color="green" if grade == "right" else "gray")
            text_strip(trace_segments(trace), key=f"recorded_{name}_{problem.id}", height=340)
            if trace.verdict:
                st.caption(plain(one_line(trace.verdict.reason, 120)))


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
            m = recording.tokens(longer)[at].m
            st.badge(f"first difference: token {at + 1}, after control point {m}", color="orange")
        st.badge(f"settings {recording.digest}", color="gray")
        st.badge(drawing(decode, facts.config.seed), color="gray", help="Equal seeds and settings give equal answers.")
        st.badge(f"{recording.seconds:.1f} s for both", color="gray", help="Wall-clock time; both answers share every forward pass.")
        text = "After decoding, every token is read once more, under the model that decoded it and under the unsteered model."
        st.badge(plain(reading_line(recording)), color="gray", help=text)
    if not zero and (why := comparison.unsteered_line(recording, facts.config.delimiter)):
        st.caption(plain(why))


def _downloads(facts: RunFacts, recording: Recording) -> None:
    command = _command(facts, recording.settings)
    command_line(_command(facts, recording.settings, instead=recording.id or PROMPT_FILE))
    stem, seed = f"trace_{facts.name}_{recording.digest}", facts.config.seed
    title = f"{facts.name}: {one_line(recording.settings['question'], 60)}"

    def as_json() -> str:
        return json.dumps(comparison.comparison_json(recording, command) | {"seed": seed}, indent=1, ensure_ascii=False)

    with st.container(horizontal=True, vertical_alignment="center"):
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
            help="Opens offline in any browser, with everything that this page shows of both answers.",
        )
        if recording.complete:
            st.page_link(PAGES / "what_if.py", label="What if one decision had been another?")


def _command(facts: RunFacts, settings: dict[str, Any], instead: str | None = None) -> str:
    defaults = {"gate": facts.config.gate.model_dump(mode="json"), "decode": facts.config.decode.model_dump(mode="json")}
    changed = comparison.changed_settings(defaults, settings)
    prompt = settings["problem"] or settings["question"]
    return trace_command(facts.run, prompt, raw=settings["raw"], changed=changed, instead=instead)


COST_COLUMNS: Columns = {
    "right": cc.CheckboxColumn("right", help="Empty when there is no gold answer."),
    "commits": number_column("steered steps", "%d", "Steps at which an action was committed."),
    "committed tokens": number_column("answer tokens", "%d", "Committed tokens, those of the answer; the budget bounds them."),
    "probe tokens": number_column("probe tokens", "%d", "Tokens decoded in previews."),
    "of them reused": number_column("reused", "%d", "Preview tokens that were committed unchanged: decoded once, counted in both columns."),
    "total tokens": number_column("total", "%d", "Committed plus probe tokens."),
    "forward positions": number_column(
        "forward positions", "%d", "Token positions run through the model, prompt and unsteered passes included."
    ),
}


DEGENERATION_COLUMNS: Columns = {
    "answer": cc.TextColumn("answer", width=60),
    "repeated 2-grams": cc.ProgressColumn(
        "repeated pairs",
        format="percent",
        min_value=0,
        max_value=1,
        width=115,
        help="Token 2-grams: share of pairs of neighbouring tokens that occur earlier in this answer.",
    ),
    "repeated 3-grams": cc.ProgressColumn(
        "repeated triples",
        format="percent",
        min_value=0,
        max_value=1,
        width=115,
        help="Token 3-grams: share of three neighbouring tokens that occur earlier in this answer.",
    ),
    "zlib ratio": cc.ProgressColumn(
        "compressed",
        format="%.2f",
        min_value=0,
        max_value=1,
        width=90,
        help="Compressed over plain size: low repeats; short texts compress badly.",
    ),
}
