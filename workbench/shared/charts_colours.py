"""Colours that stay apart for colour-blind eyes and on light and dark ground."""

from collections.abc import Sequence

from plotly.colors import sample_colorscale

CORRECTIVE, NULL = "#d55e00", "#3a87c8"
"""The two kinds of entry (vermilion and blue of Okabe and Ito, the blue a little lighter for dark ground)."""
CHOSEN = "#e6007e"
"""Rings and frames: apart from every scale used here, on both grounds."""
GREY = "#8a8f98"
"""Lines and marks that say nothing by their colour; readable on both grounds."""
VERDICTS = {
    "helps": ("#d55e00", "triangle-up"),
    "no effect seen": (GREY, "circle"),
    "harms": ("#3a87c8", "triangle-down"),
    "": (GREY, "circle"),
}
"""Colour and shape of what an interval says: warm above 0 and cold below, as in the diverging scale; the shape says it again."""
VANILLA, STEERED = "#8a8f98", "#d55e00"
CATEGORIES = ("#d55e00", "#3a87c8", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#b2a000", "#7f7f7f", "#a6761d")
DIVERGING = ("#2166ac", "#67a9cf", "#d1e5f0", "#f4f4f4", "#fddbc7", "#ef8a62", "#b2182b")
"""Blue below 0, red above (ColorBrewer RdBu); always used with a domain that is symmetric about 0."""
SEQUENTIAL = "cividis"


def ordered(n: int) -> list[str]:
    """``n`` colours in an order that reads as more and more (viridis without its dark and its pale end)."""
    return [str(colour) for colour in sample_colorscale("Viridis", [0.18 + 0.67 * i / max(1, n - 1) for i in range(n)])]


def categorical(n: int) -> list[str]:
    """``n`` colours for unordered categories; they repeat after ten, so a legend must not rely on colour alone then."""
    return [CATEGORIES[i % len(CATEGORIES)] for i in range(n)]


def symmetric(values: Sequence[float], floor: float = 1e-6) -> tuple[float, float]:
    """A domain centred on 0 that holds all values."""
    reach = max([abs(value) for value in values] + [floor])
    return -reach, reach
