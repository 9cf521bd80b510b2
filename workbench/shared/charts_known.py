"""What of plotly :mod:`workbench.shared.charts_paper` can draw; all else is refused, so that no figure loses a part unseen."""

from collections.abc import Collection, Iterator
from typing import Any

from stir_core.errors import DataError

_UNDRAWN = {"customdata", "hovertemplate", "hoverinfo", "hovertext", "legendgroup", "selected", "unselected", "text", "uid", "meta"}
"""Attributes of traces that change nothing on paper; texts are refused by their mode."""
_DRAWN = {"type", "name", "showlegend", "x", "y", "xaxis", "yaxis", "marker"}
_TRACES = {
    "scatter": _DRAWN | _UNDRAWN | {"mode", "line", "error_x", "error_y", "fill", "fillcolor", "opacity", "orientation"},
    "bar": _DRAWN | _UNDRAWN | {"width"},
}
_MARKERS = {"color", "coloraxis", "colorscale", "colorbar", "showscale", "cmin", "cmax", "line", "opacity", "pattern", "size", "symbol"}
_NAMED = {"circle", "square", "cross", "diamond", "triangle-up", "triangle-down", "triangle-left", "triangle-right"}
"""Symbols that Vega knows by the name that plotly gives them."""


def check_known(traces: list[dict[str, Any]], layout: dict[str, Any], symbols: Collection[str]) -> None:
    """Refuse a plotly figure with a part that would be drawn wrong or not at all.

    Args:
        traces: as plotly writes them to JSON, like ``layout``.
        symbols: names of the symbols that are drawn by their paths.

    Raises:
        DataError: the first such part.
    """
    for part in (*_of_traces(traces, _NAMED | set(symbols)), *_of_layout(layout)):
        raise DataError(f"{part} of a plotly figure cannot be written as SVG or PDF: draw it with Altair")


def _of_traces(traces: list[dict[str, Any]], symbols: set[str]) -> Iterator[str]:
    for trace in traces:
        kind = str(trace.get("type", "scatter")).removesuffix("gl")
        if kind not in _TRACES:
            yield f"the trace of kind {kind!r}"
            continue
        marker, line = trace.get("marker") or {}, trace.get("line") or {}
        unknown = [*(set(trace) - _TRACES[kind]), *(f"marker.{name}" for name in set(marker) - _MARKERS)]
        yield from (f"the attribute {name!r}" for name in sorted(unknown))
        symbol = marker.get("symbol", "circle")
        for name in {symbol} if isinstance(symbol, str | int) else set(symbol):
            if str(name).removesuffix("-open") not in symbols:
                yield f"the symbol {name!r}"
        for name, value, known in (
            ("fill", trace.get("fill"), (None, "none", "tonexty")),
            ("line.shape", line.get("shape"), (None, "linear", "hv")),
            ("mode", trace.get("mode"), (None, "lines", "markers", "lines+markers", "markers+lines")),
        ):
            if value not in known:
                yield f"the {name} {value!r}"


def _of_layout(layout: dict[str, Any]) -> Iterator[str]:
    if layout.get("barmode") not in (None, "group", "overlay"):
        yield f"the barmode {layout['barmode']!r}"
    for name, axis in layout.items():
        if name.startswith(("xaxis", "yaxis")):
            if axis.get("type") not in (None, "-", "linear", "log", "category"):
                yield f"the axis of type {axis['type']!r}"
            if axis.get("autorange") not in (None, True) or axis.get("categoryorder") not in (None, "trace", "array"):
                yield f"the order of {name}"
    for shape in layout.get("shapes", ()):
        across = [side for side in ("x", "y") if str(shape.get(f"{side}ref", side)).endswith(" domain")]
        if shape["type"] not in ("line", "rect") or (across not in (["x"], ["y"]) if shape["type"] == "line" else across != ["y"]):
            yield f"the shape of kind {shape['type']!r}"
    for note in layout.get("annotations", ()):
        if str(note.get("yref", "y")).endswith((" domain", "paper")) or note.get("xref") == "paper":
            yield f"the annotation {note.get('text')!r}"
