"""Draws the house: docs/img/drawings/house.svg, from the table of the import rules.

    python -m scripts.house

Floors and rooms are those of ``FLOORS`` in tests/test_house.py, pages are the files in pages/. A room that is missing from ``ROOMS`` is an
error. tests/docs/test_drawing.py checks that the committed file is up to date.
"""

import ast
import html
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "tests" / "test_house.py"
DRAWING = ROOT / "docs" / "img" / "drawings" / "house.svg"

ROOMS = {
    "errors": "one small family",
    "records": "frozen facts",
    "findings": "results of measurements",
    "requests": "settings of measurements",
    "responses": "what an impulse did",
    "seeding": "streams by name",
    "keyspace": "where keys compare",
    "config": "settings, strict",
    "curation": "a fold of edits",
    "readings": "a token read again",
    "saved": "what was decoded, kept",
    "policies": "learned gates, linear",
    "version": "which one this is",
    "store": "run folders, JSON lines, safetensors: the only code that knows paths and formats",
    "tasks": "problems, prompts, steps, grading",
    "models": "loading, one packed forward pass with its cache, steering: alone imports transformer_lens, alone changes activations",
    "harvest": "Stage I: rollouts, states, actions and their controls",
    "basis": "Stage II: selection and geometry; knows no model",
    "intervene": "Stage III: memory, gate (a pure function), the step loop",
    "organisms": "small models with planted modes: their writer, training, truth",
    "latent": "reasoners whose steps are latents: frame, strategies, training, thinking",
    "evaluate": "paired runs, comparison decoders, causal value, sweeps",
    "deploy": "bundle and its targets, certificates, runtime, server",
    "stages": "one file each; pipeline makes them in order: run, resume, status",
    "calibration": "the instruments judged on organisms",
    "commands": "the commands and their output",
    "api": "what import stir_core as stir offers",
    "cli": "main(argv) -> exit code",
    "__main__": "python -m stir_core",
}
"""The purpose of each room."""

BESIDE = {
    "view": "draws a page, one per room; knows streamlit",
    "charts": "data -> figure; no streamlit, no torch",
    "data": "read models; no streamlit, no torch",
    "shared": "what several pages share",
    "app": "navigation, nothing else",
    "bootstrap": "the composition root",
    "live": "the one steering session",
    "session": "alone names session keys",
}
"""Parts of the workbench that a reader should know; pages stand apart."""

WIDTH, HOUSE, GAP, PAD = 1180, 790, 8, 10
LINE, TITLE = 15, 17
TEXT, NAME = 6.05, 7.8
"""Width of a character of prose (11.5 px) and of a name (13 px, fixed width)."""

STYLE = """
svg.drawing { --ink: #1d2733; --soft: #5a6876; --line: #b9c4cf; --room: #eef3f8; --ground: #e3ebe0; --beside: #f6eee2; }
@media (prefers-color-scheme: dark) {
  svg.drawing { --ink: #dbe4ee; --soft: #9fb0c0; --line: #47586a; --room: #243342; --ground: #2a382b; --beside: #3a3227; }
}
svg.drawing text { font: 11.5px system-ui, "DejaVu Sans", sans-serif; fill: var(--soft); }
svg.drawing .name { font: 600 13px ui-monospace, "DejaVu Sans Mono", monospace; fill: var(--ink); }
svg.drawing .head { font-weight: 600; fill: var(--ink); }
svg.drawing rect { fill: var(--room); stroke: var(--line); }
svg.drawing .ground rect { fill: var(--ground); }
svg.drawing .beside rect { fill: var(--beside); }
svg.drawing .frame { fill: none; stroke: var(--line); stroke-width: 1.5; }
svg.drawing .arrow { fill: none; stroke: var(--soft); stroke-width: 1.5; }
""".strip()


def floors(source: str) -> tuple[tuple[str, ...], ...]:
    """The rooms of every floor, beginning with the ground floor."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(isinstance(name, ast.Name) and name.id == "FLOORS" for name in node.targets):
            return ast.literal_eval(node.value)
    raise ValueError(f"{RULES} names no FLOORS")


def page_names() -> tuple[str, ...]:
    """Pages of the workbench, by file."""
    return tuple(sorted(path.stem for path in (ROOT / "pages").glob("*.py") if path.stem != "__init__"))


def house(levels: tuple[tuple[str, ...], ...], pages: tuple[str, ...]) -> str:
    """The drawing as an SVG document."""
    body: list[str] = []
    y = 46.0
    for height in range(len(levels) - 1, -1, -1):
        drawn, tall = floor(height, levels[height], y)
        body += drawn
        y += tall + GAP
    bottom = y - GAP
    body += roof(bottom)
    body += workbench(pages, bottom)
    whole = bottom + 34
    head = f'<svg class="drawing" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {whole:g}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *body, "</svg>"]) + "\n"


def floor(height: int, rooms: tuple[str, ...], y: float) -> tuple[list[str], float]:
    """The rooms of one floor side by side; the ground floor's in rows of five. Returns the elements and the floor's height."""
    rows = [rooms[i : i + 5] for i in range(0, len(rooms), 5)]
    found, top = [f'<g class="floor{" ground" if height == 0 else ""}" data-floor="{height}">'], y
    found.append(text(14, y + 18, str(height), "head"))
    for row in rows:
        wide = (HOUSE - 46 - GAP * (len(row) - 1)) / len(row)
        wrapped = [wrap(ROOMS[room], wide) for room in row]
        tall = 2 * PAD + TITLE + LINE * max(len(lines) for lines in wrapped)
        for i, (room, lines) in enumerate(zip(row, wrapped, strict=True)):
            found += box(f'data-room="{room}"', 32 + i * (wide + GAP), y, wide, tall, room, lines)
        y += tall + GAP
    return [*found, "</g>"], y - GAP - top


def roof(bottom: float) -> list[str]:
    """The house's outline, and the direction of imports."""
    ridge = (HOUSE - 8) / 2 + 4
    return [
        f'<path class="frame" d="M4 {bottom + 8:g} V38 L{ridge:g} 6 L{HOUSE - 4} 38 V{bottom + 8:g} Z"/>',
        text(ridge, 32, "stir_core", "name", middle=True),
        text(
            14,
            bottom + 27,
            "A room knows the floors below it, and nothing else. Rooms side by side do not know each other, save on the ground floor.",
        ),
    ]


def workbench(pages: tuple[str, ...], bottom: float) -> list[str]:
    """The workbench beside the house: the pages and their parts."""
    x, wide = HOUSE + 40, WIDTH - HOUSE - 50
    found = ['<g class="beside">', f'<path class="frame" d="M{x - 10} 38 H{WIDTH - 4} V{bottom + 8:g} H{x - 10} Z"/>']
    found.append(text(x, 30, "pages and workbench", "name"))
    y = 46.0
    lines = textwrap.wrap(", ".join(pages), int((wide - 2 * PAD) / 6.9))
    tall = 3 * PAD + TITLE + LINE * (len(lines) + 1)
    names = " ".join(pages)
    about = ["15 to 80 lines each, streamlit and workbench only:", *lines]
    found += box(f'data-pages="{names}"', x, y, wide, tall - PAD, "pages", about)
    y += tall - PAD + GAP
    each = (bottom - y - GAP * (len(BESIDE) - 1)) / len(BESIDE)
    for name, words in BESIDE.items():
        found += box(f'data-beside="{name}"', x, y, wide, each, name, wrap(words, wide))
        y += each + GAP
    middle = bottom - 60
    found.append(f'<path class="arrow" d="M{x - 12} {middle:g} H{HOUSE + 2} m7 -5 l-7 5 l7 5"/>')
    return [*found, "</g>"]


def box(mark: str, x: float, y: float, wide: float, tall: float, name: str, lines: list[str]) -> list[str]:
    """One room with its name and purpose."""
    found = [f"<g {mark}>", f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{tall:g}" rx="4"/>']
    found.append(text(x + PAD, y + PAD + 10, name, "name"))
    found += [text(x + PAD, y + PAD + 10 + TITLE + i * LINE, line) for i, line in enumerate(lines)]
    return [*found, "</g>"]


def wrap(words: str, wide: float) -> list[str]:
    """A text in lines that fit into a room."""
    return textwrap.wrap(words, int((wide - 2 * PAD) / TEXT))


def text(x: float, y: float, words: str, kind: str = "", *, middle: bool = False) -> str:
    """A line of text as an SVG element."""
    where = ' text-anchor="middle"' if middle else ""
    return f'<text x="{x:g}" y="{y:g}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}{where}>{html.escape(words, quote=False)}</text>'


def drawn() -> str:
    """The drawing of the present house."""
    return house(floors(RULES.read_text("utf-8")), page_names())


def mismatches() -> Iterator[str]:
    """Rooms that are missing from ``ROOMS``, and entries of rooms that do not exist."""
    rooms = {room for level in floors(RULES.read_text("utf-8")) for room in level}
    yield from (f"{room} is on a floor, but missing from ROOMS" for room in sorted(rooms - set(ROOMS)))
    yield from (f"ROOMS has {room}, which is on no floor" for room in sorted(set(ROOMS) - rooms))


if __name__ == "__main__":
    if wrong := list(mismatches()):
        sys.exit("\n".join(wrong))
    DRAWING.parent.mkdir(parents=True, exist_ok=True)
    DRAWING.write_text(drawn(), encoding="utf-8")
    print(DRAWING.relative_to(ROOT))
