"""Draws Stage III: docs/img/drawings/algorithm.svg, one control point from the state to the committed step.

    python -m scripts.algorithm_figure

tests/docs/test_algorithm_figure.py checks that the committed file is up to date.
"""

import html
from collections.abc import Iterator
from pathlib import Path

from scripts.house import STYLE

DRAWING = Path(__file__).resolve().parents[1] / "docs" / "img" / "drawings" / "algorithm.svg"
WIDTH, HEIGHT = 1000, 520
TOKEN, LAYERS, TOP = 34, 5, 60
"""Width of a token, drawn blocks, and where the stack of blocks begins."""
STEER = 2
"""The drawn block after which the impulse enters, counted from below."""
COLOURS = """
svg.drawing .hit rect, svg.drawing rect.hit { fill: #d55e00; stroke: none; }
svg.drawing .felt { fill: #d55e00; fill-opacity: .28; stroke: var(--line); }
svg.drawing .null rect { fill: none; stroke-dasharray: 4 3; }
""".strip()
PROMPT, BEFORE, AFTER = 3, 4, 5
"""Tokens drawn of the prompt, of the finished step and of the step that is committed."""


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text as an SVG element."""
    mark = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{mark}>{html.escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "") -> str:
    """One rectangle."""
    mark = f' class="{kind}"' if kind else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3"{mark}/>'


def stack() -> Iterator[str]:
    """Tokens from left to right, blocks from below: the impulse's place, and the states that it changes."""
    first = PROMPT + BEFORE
    row = 26
    for token in range(PROMPT + BEFORE + AFTER):
        x = 120 + token * (TOKEN + 4) + (12 if token >= PROMPT else 0) + (12 if token >= first else 0)
        for block in range(LAYERS):
            y = TOP + (LAYERS - 1 - block) * (row + 4)
            at = token == first - 1
            kind = "hit" if at and block == STEER else "felt" if block > STEER and token >= first - 1 else ""
            yield box(x, y, TOKEN, row, kind)
        words = ("x", "x", "x", "y", "y", "y", "\\n\\n", "y", "y", "y", "y", "\\n\\n")[token]
        yield text(x + TOKEN / 2, TOP + LAYERS * (row + 4) + 14, words, "name", "middle")
        if token == first - 1:
            yield text(x + TOKEN / 2, TOP - 28, "control point m", "head", "middle")
            yield text(x + TOKEN / 2, TOP - 13, "last prefix token", "", "middle")
    yield text(20, TOP + 18, f"block {LAYERS - 1}")
    yield text(20, TOP + (LAYERS - 1 - STEER) * 30 + 17, "block l", "head")
    yield text(20, TOP + (LAYERS - 1) * 30 + 17, "block 0")
    right = 620
    yield text(right, TOP + 14, "The impulse α·v is added once, after block l, at", "head")
    yield text(right, TOP + 32, "the last prefix token alone. It reaches later tokens")
    yield text(right, TOP + 50, "through the keys and values that this token")
    yield text(right, TOP + 68, "leaves in the blocks above l (tinted), and")
    yield text(right, TOP + 86, "through the text that is written.")
    yield text(right, TOP + 114, "Ephemeral: when the step is committed, the cache", "head")
    yield text(right, TOP + 132, "goes back to unsteered keys and values.")
    yield text(right, TOP + 150, "Persistent: they stay.", "head")


def stages() -> Iterator[str]:
    """Retrieve, preview, gate, commit, side by side."""
    top, height, gap = 270, 220, 16
    width = (WIDTH - 40 - 3 * gap) / 4
    boxes = (
        (
            "1  retrieve",
            ("state h_l at the control point", "cosine with the keys of entries", "at this m and their own layer", "A = cosine × quality"),
        ),
        ("2  preview", ("null and up to L candidates", "a few tokens each, on branches", "of the cache", "P = mean log-probability")),
        ("3  gate", ("score = β·A + ρ·(P − P_null)", "null's score = β·A_null", "commit the best only if", "strictly above null")),
        ("4  commit", ("α = k_scale × score", "decode to the next delimiter", "or end; null decodes the same", "way, with nothing added")),
    )
    for i, (title, lines) in enumerate(boxes):
        x = 20 + i * (width + gap)
        yield box(x, top, width, height)
        yield text(x + 12, top + 24, title, "name")
        for k, line in enumerate(lines):
            yield text(x + 12, top + 46 + 17 * k, line)
        if i < 3:
            middle = top + height / 2
            yield f'<path class="arrow" d="M{x + width + 2:g} {middle:g} h{gap - 5} m-5 -4 l5 4 l-5 4"/>'
        yield from picture(i, x + 12, top + 128, width - 24)


def picture(stage: int, x: float, y: float, width: float) -> Iterator[str]:
    """A small drawing of one stage."""
    if stage == 0:
        for k, cosine in enumerate((0.96, 0.93, 0.9, 0.86, 0.8, 0.7)):
            yield f'<g class="{"null" if k in (1, 4) else "found"}">{box(x, y + 13 * k, width * cosine * 0.6, 9)}</g>'
        yield text(x + width, y + 8, "corrective", "", "end")
        yield text(x + width, y + 21, "null", "", "end")
    elif stage == 1:
        for k in range(4):
            yield text(x, y + 12 + 20 * k, "null" if k == 0 else f"v{k}")
            kind = "null" if k == 0 else "found"
            yield f'<g class="{kind}">{"".join(box(x + 36 + 30 * t, y + 20 * k, 24, 14) for t in range(4))}</g>'
    elif stage == 2:
        for k, (name, score) in enumerate((("v1", 0.62), ("v2", 0.44), ("v3", 0.5))):
            yield text(x, y + 12 + 20 * k, name)
            yield box(x + 36, y + 20 * k, (width - 50) * score, 14, "hit" if k == 0 else "")
        line = x + 36 + (width - 50) * 0.55
        yield f'<path class="arrow" d="M{line:g} {y - 4:g} v66" stroke-dasharray="4 3"/>'
        yield text(line + 4, y + 76, "null")
    else:
        yield box(x, y + 18, 40, 20, "hit")
        yield "".join(box(x + 46 + 34 * t, y + 18, 28, 20, "felt") for t in range(4))
        yield text(x, y + 58, "impulse, then the step")


def drawn() -> str:
    """The whole drawing."""
    parts = [*stack(), *stages()]
    head = f'<svg class="drawing" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    return "\n".join([head, f"<style>{STYLE}\n{COLOURS}</style>", *parts, "</svg>", ""])


def main() -> None:
    """Write the drawing."""
    DRAWING.parent.mkdir(parents=True, exist_ok=True)
    DRAWING.write_text(drawn(), encoding="utf-8")


if __name__ == "__main__":
    main()
