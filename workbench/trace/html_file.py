"""A comparison as one HTML file that opens anywhere, offline: both answers, every decision and number, and the code that draws them.

The file asks nobody for anything: its Content-Security-Policy forbids every load and runs no script but its own, by its hash. What a model
wrote stands in a block of JSON, from which nothing can break out, and is set as text.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from stir_core.config import GateConfig
from workbench.shared.trace_comparison import Recording, cost_table, degeneration_table, equality_line
from workbench.trace.document import document, reading_line, words_of

_ASSETS = Path(__file__).resolve().parents[1] / "assets"
VIEW_CSS = (_ASSETS / "trace_view.css").read_text("utf-8")
VIEW_JS = (_ASSETS / "trace_view.js").read_text("utf-8")
"""What draws a :func:`document`: ``drawTrace(root, document)``. The page's component and the file run the same code."""

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
    tables = [{"columns": [str(name) for name in table.columns], "rows": words_of(table)} for table in _tables(recording)]
    held = {
        "question": recording.settings["question"],
        "equality": equality_line(recording)[1],
        "tables": tables,
        "facts": _facts(recording, seed),
        "command": command,
        "document": document(recording, gate),
    }
    script, style = VIEW_JS + _JS, VIEW_CSS + _CSS
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style></head>\n"
        f'<body><h1>{escape(title)}</h1><div id="head"></div><div id="answers">\n'
        "<noscript>This file draws itself with a script of its own.</noscript></div>\n"
        f'<script type="application/json" id="comparison">{_inert(held)}</script>\n'
        f"<script>{script}</script></body></html>\n"
    )


def _tables(recording: Recording) -> tuple[Any, Any]:
    return cost_table(recording), degeneration_table(recording)


def _facts(recording: Recording, seed: int) -> Sequence[tuple[str, str]]:
    settings = recording.settings
    identity = recording.identity.model_dump(mode="json") if recording.identity else {}
    rows = [("model " + name.replace("_", " "), str(value)) for name, value in identity.items()]
    rows += [(name, str(settings[name])) for name in ("run", "problem", "raw")]
    rows += [(f"{part}.{name}", str(value)) for part in ("gate", "decode") for name, value in settings[part].items()]
    rows += [("seed", str(seed)), ("settings digest", recording.digest), ("decoded in", f"{recording.seconds:.1f} s")]
    return [*rows, ("read again", reading_line(recording))]


def _inert(value: object) -> str:
    """JSON that no HTML parser can read as anything else: no tag, comment or entity can begin or end in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return (
        text.replace("&", "\\u0026")
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
