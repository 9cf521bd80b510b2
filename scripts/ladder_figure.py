"""Draws the ladder: docs/img/drawings/ladder.svg, the accuracy of five arms on the three shipped organisms.

    python -m scripts.ladder_figure

Every figure comes from the calibration that the package ships, `stir calibrate`'s result.
tests/docs/test_ladder_figure.py checks that the committed drawing is up to date.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from scripts.algorithm_figure import text
from scripts.house import STYLE
from stir_core.evaluate.statistics import wilson

ROOT = Path(__file__).resolve().parents[1]
SOURCE, DRAWING = ROOT / "stir_core" / "assets" / "organisms" / "calibration.json", ROOT / "docs" / "img" / "drawings" / "ladder.svg"
ARMS = {
    "vanilla": "vanilla",
    "stir": "STIR, published",
    "default": "STIR, gate that abstains",
    "noise": "noise of the actions' norm",
    "oracle": "oracle, knows the truth",
}
"""Arms of a rung by their name in the file, with what the drawing calls them."""
RUNGS = {
    "two_habits": "the state tells what is needed",
    "hidden_kind": "the state does not tell",
    "null": "nothing to steer by",
}
WIDTH, LEFT, GAP, TOP, ROW = 1000, 190, 22, 74, 26
PANEL = (WIDTH - LEFT - GAP * len(RUNGS)) / len(RUNGS)
COLOURS = """
svg.drawing .mark { fill: var(--soft); } svg.drawing .span { stroke: var(--soft); stroke-width: 2; }
svg.drawing .stir .mark { fill: #d55e00; } svg.drawing .stir .span { stroke: #d55e00; }
svg.drawing .default .mark { fill: #3a87c8; } svg.drawing .default .span { stroke: #3a87c8; }
svg.drawing .grid { stroke: var(--line); } svg.drawing .base { stroke: var(--soft); stroke-dasharray: 4 3; }
""".strip()


def panel(number: int, rung: str, arms: dict[str, dict[str, int]]) -> Iterator[str]:
    """Accuracy of every arm on one rung, with Wilson 95 % intervals; the dashed line is vanilla."""
    left, bottom = LEFT + number * (PANEL + GAP), TOP + ROW * len(ARMS)

    def at(share: float) -> float:
        return left + (PANEL - 56) * share

    yield text(left, TOP - 40, rung, "name")
    yield text(left, TOP - 23, RUNGS[rung])
    for share in (0, 0.5, 1):
        yield f'<path class="grid" d="M{at(share):.1f} {TOP - 8} V{bottom}"/>'
        yield text(at(share), bottom + 16, f"{share:.0%}", "", "middle")
    yield f'<path class="base" d="M{at(arms["vanilla"]["right"] / arms["vanilla"]["of"]):.1f} {TOP - 8} V{bottom}"/>'
    for row, arm in enumerate(ARMS):
        found, y = wilson(arms[arm]["right"], arms[arm]["of"]), TOP + ROW * row + 8
        assert found.low is not None and found.high is not None
        yield f'<g class="{arm}"><path class="span" d="M{at(found.low):.1f} {y} H{at(found.high):.1f}"/>'
        yield f'<circle class="mark" cx="{at(found.value):.1f}" cy="{y}" r="4.5"/></g>'
        yield text(left + PANEL - 44, y + 4, f"{found.value:.1%}", "head")


def drawn(rungs: dict[str, dict[str, dict[str, int]]]) -> str:
    """The whole drawing of ``stir calibrate --json``'s ``rungs``."""
    n = {arms[arm]["of"] for name, arms in rungs.items() if name in RUNGS for arm in ARMS}
    height = TOP + ROW * len(ARMS) + 48
    parts = [part for number, rung in enumerate(RUNGS) for part in panel(number, rung, rungs[rung])]
    parts += [text(LEFT - 16, TOP + ROW * row + 12, words, "head", "end") for row, words in enumerate(ARMS.values())]
    under = (
        f"Greedy accuracy on {'/'.join(map(str, sorted(n)))} held-out problems of each organism, Wilson 95 % intervals; dashed: vanilla."
    )
    parts.append(text(WIDTH / 2, height - 8, f"{under} Calibration objects, not evidence about real models.", "", "middle"))
    head = f'<svg class="drawing" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    return "\n".join([head, f"<style>{STYLE}\n{COLOURS}</style>", *parts, "</svg>", ""])


def main() -> None:
    """Write the drawing."""
    DRAWING.write_text(drawn(json.loads(SOURCE.read_text(encoding="utf-8"))["rungs"]), encoding="utf-8")


if __name__ == "__main__":
    main()
