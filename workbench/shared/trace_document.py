"""A comparison as the drawing script's JSON (:func:`document`), and as one HTML file (:func:`html`)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stir_core.config import GateConfig
from stir_core.readings import TokenReading
from workbench.shared.codes import code_colour
from workbench.shared.gate_evidence import CANDIDATE_COLUMNS, candidate_table, funnel_line, score_line
from workbench.shared.html_parts import html_file, words_of
from workbench.shared.text import one_line, plural, visible_token
from workbench.shared.trace_comparison import (
    ROWS,
    STEERED,
    VANILLA,
    Recording,
    StepRow,
    cost_table,
    degeneration_table,
    equality_line,
    first_divergence,
)

QUANTITIES = (
    ("surprise", "surprise", False, "−log-probability of the token under the model that decoded it"),
    ("entropy", "entropy", False, "of the distribution that the token was chosen from"),
    ("kl", "KL", False, "KL(steered ‖ vanilla) over the whole vocabulary, after the same prefix; 0 where no impulse was live"),
    ("change", "change", True, "log-probability of the token, steered minus vanilla, after the same prefix"),
)
"""Key, label, whether it is signed, and definition. All in nats."""


def document(recording: Recording, gate: GateConfig, shown: Sequence[int] = (VANILLA, STEERED)) -> dict[str, Any]:
    """Answers by step and token, the gate's decisions, and the colour scales; ready for JSON.

    Args:
        shown: the answers that are drawn, beside each other: both, or one.
    """
    ids = recording.ids(VANILLA), recording.ids(STEERED)
    apart = first_divergence(*ids) if len(shown) > 1 else None
    if apart is not None and not recording.complete and apart == min(map(len, ids)):
        apart = None  # one answer is ahead of the other
    firsts = [0, 0]
    steps = []
    for m in range(recording.last_m + 1):
        rows = [recording.steps[row].get(m) for row in (VANILLA, STEERED)]
        same = rows[0] is not None and rows[1] is not None and [t.token_id for t in rows[0].tokens] == [t.token_id for t in rows[1].tokens]
        drawn = []
        for row in shown:
            step = rows[row]
            drawn.append(_drawn_step(recording, row, m, step, firsts[row], same))
            firsts[row] += len(step.tokens) if step else 0
        steps.append({"m": m, "rows": drawn, "gate": _gate(rows[STEERED], gate)})
    tokens = [token for step in steps for row in step["rows"] for token in row["tokens"]]
    return {
        "digest": recording.digest,
        "names": [ROWS[row] for row in shown],
        "steps": steps,
        "divergence": None if apart is None else {"at": apart},
        "aligned": 0 if len(shown) == 1 else min(map(len, ids)) if apart is None else apart + 1,
        "steered_anywhere": any(token["live"] for token in tokens),
        "thinks": any(token["thought"] for token in tokens),
        "quantities": [_scale(tokens, *quantity) for quantity in QUANTITIES],
    }


def step_head(row: StepRow) -> str:
    """One line over a step: its control point, its tokens, and the action that steered it."""
    mark = f" · steered by {row.decision.chosen} × {row.decision.alpha:.2f}" if row.decision is not None and row.steered else ""
    phase = row.evidence.phase if row.evidence is not None else None
    part = {"thinking": " · in the thinking", "final": " · behind the thinking", None: ""}[phase]
    return f"control point {row.m}{part} · {plural(len(row.tokens), 'token')}{mark}"


def _drawn_step(recording: Recording, number: int, m: int, row: StepRow | None, first: int, same: bool) -> dict[str, Any]:
    if row is None:
        return {"head": f"control point {m} · {'the answer had ended' if recording.complete else 'not decoded'}", "tokens": []}
    readings = {reading.position: reading for reading in recording.readings[number]}
    trace = recording.traces[number]
    thought = trace.thinking.tokens if trace is not None and trace.thinking is not None else 0
    closes = " · ends the thinking" if first < thought < first + len(row.tokens) else ""
    head = step_head(row) + closes + (" · same ids as vanilla" if same and number == STEERED else "")
    tokens = []
    for place, (token, text) in enumerate(zip(row.tokens, drawn_tokens(row), strict=True)):
        reading = readings.get(first + place)
        name = token.text or (reading.text if reading else "")
        tokens.append(
            {
                "row": number,
                "at": first + place,
                "m": m,
                "id": token.token_id,
                "text": text or name or "◌",
                "made": not text,
                "thought": first + place < thought,
                "name": visible_token(name),
                "live": reading.live if reading else row.steered,
                "logprob": token.logprob,
                "reading": _reading(reading) if reading else None,
                "values": _values(token.logprob, reading),
            }
        )
    code = recording.codes[number].get(m)
    return {"head": head, "tokens": tokens} | ({} if code is None else {"code": code, "colour": code_colour(code)})


def _values(logprob: float, reading: TokenReading | None) -> dict[str, float | None]:
    surprise = max(0.0, -logprob)
    if reading is None:
        return {"surprise": surprise, "entropy": None, "kl": None, "change": None}
    return {"surprise": surprise, "entropy": reading.entropy, "kl": reading.kl, "change": reading.change}


def _reading(reading: TokenReading) -> dict[str, Any]:
    numbers = reading.model_dump(include={"logprob", "unsteered_logprob", "rank", "unsteered_rank", "entropy", "unsteered_entropy", "kl"})
    near = [[other.token_id, visible_token(other.text), other.logprob, other.unsteered_logprob] for other in reading.alternatives]
    return numbers | {"near": near}


def _scale(tokens: list[dict[str, Any]], key: str, label: str, signed: bool, about: str) -> dict[str, Any]:
    """A quantity's colour scale, which ends at its largest value; ``None`` where it was not measured or is 0 everywhere.

    The script lets colours grow with the square root, so that a few extreme tokens do not wash out all others.
    """
    end = max((abs(token["values"][key]) for token in tokens if token["values"][key]), default=None)
    return {"key": key, "label": label, "signed": signed, "about": about, "unit": "nats", "end": end}


def _gate(row: StepRow | None, gate: GateConfig) -> dict[str, Any] | None:
    if row is None or row.evidence is None or row.decision is None:
        return None
    evidence, decision = row.evidence, row.decision
    reason = str(decision.reason)
    return {
        "summary": f"gate at control point {row.m}: {one_line(reason, 140)}",
        "funnel": funnel_line(evidence, decision),
        "reason": reason,
        "columns": CANDIDATE_COLUMNS,
        "rows": words_of(candidate_table(evidence, decision)),
        "note": score_line(evidence, decision, gate) if evidence.retrieved else "",
    }


def reading_line(recording: Recording) -> str:
    """Time to read the answers again, against the time to decode them."""
    n = sum(map(len, recording.readings))
    if not n:
        return "not read again"
    part = f" ({recording.reading_seconds / recording.seconds:.0%} of decoding)" if recording.seconds else ""
    return f"{recording.reading_seconds:.1f} s to read {n} tokens again{part}"


_ASSETS = Path(__file__).resolve().parents[1] / "assets"
VIEW_CSS = (_ASSETS / "trace_view.css").read_text("utf-8")
VIEW_JS = (_ASSETS / "trace_view.js").read_text("utf-8")
"""Draws a :func:`document`: ``drawTrace(root, document)``, in the page's component and in the HTML file alike."""

_CSS = """
:root { color-scheme: light dark; --st-text-color: #1f2933; --st-background-color: #ffffff; --st-secondary-background-color: #f3f5f8;
  --st-border-color: #d9e0e7; --st-primary-color: #24699b; --st-font: system-ui, sans-serif; --st-code-font: ui-monospace, monospace; }
@media (prefers-color-scheme: dark) { :root { --st-text-color: #e4e9ef; --st-background-color: #11161c;
  --st-secondary-background-color: #1c242d; --st-border-color: #2f3a46; --st-primary-color: #4592d0; } }
body { margin: 1.2rem auto; max-width: 90rem; padding: 0 1.2rem; font-family: var(--st-font); font-size: 14px; line-height: 1.45;
  color: var(--st-text-color); background: var(--st-background-color); }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1rem 0 0.3rem; }
.question, .command { white-space: pre-wrap; overflow-wrap: anywhere; font-family: var(--st-code-font); font-size: 0.85rem;
  background: var(--st-secondary-background-color); border-radius: 6px; padding: 8px 10px; }
#head > details > .facts { border-collapse: collapse; font-size: 0.8rem; }
#head > details td { padding: 0.1rem 0.6rem 0.1rem 0; overflow-wrap: anywhere; vertical-align: top; }
.tv-panel { top: 1rem; max-height: calc(100vh - 3rem); }
"""

_JS = """
const file = JSON.parse(document.getElementById("comparison").textContent)
const head = document.getElementById("head")
function section(title, ...parts) { head.append(el("h2", "", title), ...parts) }
section("Question", el("div", "question", file.question))
section("Answers", el("div", "", file.equality), ...file.tables.map((table) => {
  const box = el("div", "tv tv-scroll")
  box.style.display = "block"
  box.appendChild(tableOf(table.columns, table.rows, ""))
  return box
}))
const more = el("details")
more.append(el("summary", "", "Model, settings and command"), tableOf(["", ""], file.facts, "facts"), el("div", "command", file.command))
head.append(more, el("h2", "", "Step by step"))
drawTrace(document.getElementById("answers"), file.document)
"""


def html(recording: Recording, command: str, *, seed: int, title: str) -> str:
    """The whole comparison as one HTML document."""
    gate = GateConfig.model_validate(recording.settings["gate"])
    tables = [
        {"columns": [str(name) for name in table.columns], "rows": words_of(table)}
        for table in (cost_table(recording), degeneration_table(recording))
    ]
    content = {
        "question": recording.settings["question"],
        "equality": equality_line(recording)[1],
        "tables": tables,
        "facts": _facts(recording, seed),
        "command": command,
        "document": document(recording, gate),
    }
    body = (
        '<div id="head"></div><div id="answers">\n'
        "<noscript>This file draws itself with a script of its own.</noscript></div>\n"
        f'<script type="application/json" id="comparison">{_inert(content)}</script>'
    )
    return html_file(title, body, style=VIEW_CSS + _CSS, script=VIEW_JS + _JS)


def _facts(recording: Recording, seed: int) -> Sequence[tuple[str, str]]:
    settings = recording.settings
    identity = recording.identity.model_dump(mode="json") if recording.identity else {}
    rows = [("model " + name.replace("_", " "), str(value)) for name, value in identity.items()]
    rows += [(name, str(settings[name])) for name in ("run", "problem", "raw")]
    rows += [(f"{part}.{name}", str(value)) for part in ("gate", "decode") for name, value in settings[part].items()]
    rows += [("seed", str(seed)), ("settings digest", recording.digest), ("decoded in", f"{recording.seconds:.1f} s")]
    return [*rows, ("read again", reading_line(recording))]


def _inert(value: object) -> str:
    """JSON that is safe inside HTML: no tag, comment or entity can begin or end in it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).translate(_ESCAPES)


_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "&<>\u2028\u2029"}


def drawn_tokens(row: StepRow) -> list[str]:
    """Text of each token of a step, line ends at its end drawn as ↵; empty for a token without text (half a character, end of text)."""
    body = max((i for i, token in enumerate(row.tokens) if token.text.strip("\n")), default=-1)
    drawn = []
    for i, token in enumerate(row.tokens):
        words = token.text.rstrip("\n") if i >= body else token.text
        drawn.append(words + "↵" * (len(token.text) - len(words)))
    return drawn
