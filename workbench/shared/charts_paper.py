"""Charts as SVG and PDF files for a paper: whole, on white, in one typeface, made without a browser.

:func:`svg` and :func:`pdf` take any chart of the pages. Vega-Lite draws both kinds: a plotly figure is written as a Vega-Lite
specification first (:func:`specification`), as far as the pages use plotly: points, lines, bars, error bars, bands, rules and a colour bar.
Anything else is refused (:mod:`workbench.shared.charts_known`).
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import plotly.graph_objects as go
from plotly.colors import get_colorscale

from stir_core.errors import DataError
from workbench.shared.charts_known import check_known

Chart = alt.TopLevelMixin | go.Figure
"""What the pages draw."""

WIDTH = 640
"""Width of the plotted area in pixels, where the chart leaves it open."""
_INK, _SOFT, _GRID = "#1f2933", "#52606d", "#e4e7eb"
_FONT = "Arial, Liberation Sans, Helvetica, DejaVu Sans, sans-serif"
_CONFIG: dict[str, Any] = {
    "background": "white",
    "padding": {"left": 28, "top": 6, "right": 28, "bottom": 6},  # a viewer without these typefaces takes a wider one
    "font": _FONT,
    "view": {"stroke": "transparent", "continuousWidth": WIDTH},
    "axis": {
        "labelColor": _INK,
        "titleColor": _INK,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelFontSize": 11,
        "titleFontSize": 12,
    }
    | {"gridColor": _GRID, "domainColor": _SOFT, "tickColor": _SOFT, "labelLimit": 420},
    "legend": {
        "labelColor": _INK,
        "titleColor": _INK,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "labelLimit": 320,
    },
    "header": {"labelColor": _INK, "titleColor": _INK, "titleFontWeight": "normal"},
}
_APART = {"scale": {"color": "independent", "fill": "independent", "stroke": "independent", "shape": "independent"}}
"""Layers do not share these: most give their colours and shapes as they are, and the legend has scales of its own."""
_DASHES = {"dot": [2, 3], "dash": [6, 4], "dashdot": [6, 3, 2, 3], "longdash": [10, 4]}
_AS_IS: dict[str, Any] = {"type": "nominal", "scale": None}
"""A channel whose values are colours or shapes."""
_SYMBOLS = {
    "star": "M0,-1L.29,-.4L.95,-.31L.48,.15L.59,.81L0,.5L-.59,.81L-.48,.15L-.95,-.31L-.29,-.4Z",
    "x": "M-.9,-.5L-.5,-.9L0,-.4L.5,-.9L.9,-.5L.4,0L.9,.5L.5,.9L0,.4L-.5,.9L-.9,.5L-.4,0Z",
    "hexagon": "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z",
    "pentagon": "M0,-1L.95,-.31L.59,.81L-.59,.81L-.95,-.31Z",
    "bowtie": "M-.9,-.7L0,0L.9,-.7L.9,.7L0,0L-.9,.7Z",
}
"""Paths of the symbols that Vega has no name for."""


def is_plotly(chart: Chart) -> bool:
    """Whether plotly draws the chart; if not, Altair does."""
    return isinstance(chart, go.Figure)


def svg(chart: Chart) -> str:
    """The chart as an SVG document.

    Raises:
        DataError: a plotly figure holds what :func:`specification` does not know.
    """
    import vl_convert

    return vl_convert.vegalite_to_svg(specification(chart), config=_CONFIG, allowed_base_urls=[])


def pdf(chart: Chart) -> bytes:
    """The chart as a PDF document of one page, its texts as outlines or embedded fonts; refuses what :func:`svg` refuses."""
    import vl_convert

    return vl_convert.svg_to_pdf(svg(chart))


def specification(chart: Chart) -> dict[str, Any]:
    """The chart in Vega-Lite, as a mapping ready for JSON.

    Raises:
        DataError: a plotly figure holds a kind of trace or shape that the pages do not use.
    """
    if isinstance(chart, go.Figure):
        traces: Any = chart.data
        layout: Any = chart.layout
        return _in_xml(_of_plotly([trace.to_plotly_json() for trace in traces], layout.to_plotly_json()))
    spec = _in_xml(chart.to_dict())
    if not {"hconcat", "vconcat", "concat", "facet", "spec"} & set(spec):
        spec.setdefault("width", WIDTH)
    return spec


_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def _in_xml(value: Any) -> Any:
    """The same without characters that XML cannot hold, at which Vega-Lite's converter would end the whole process (a box in their
    place), and on one line, as titles must be."""
    if isinstance(value, str):
        return _NOT_XML.sub("\u25a1", re.sub(r"[\t\n\r\x85\u2028\u2029]", " ", value))
    if isinstance(value, dict):
        return {_in_xml(name): _in_xml(each) for name, each in value.items()}
    return [_in_xml(each) for each in value] if isinstance(value, list | tuple) else value


def _of_plotly(traces: list[dict[str, Any]], layout: dict[str, Any]) -> dict[str, Any]:
    check_known(traces, layout, _SYMBOLS)
    places = list(dict.fromkeys((_x_of(trace), _y_of(trace)) for trace in traces)) or [("x", "y")]
    panels = [
        _panel([each for each in traces if (_x_of(each), _y_of(each)) == place], layout, *place, alone=len(places) == 1) for place in places
    ]
    legends = _legend(traces, layout)
    if len(panels) == 1:
        panels[0]["layer"] += legends
        return panels[0]
    panels[-1]["layer"] += legends
    return {"hconcat": panels, "spacing": 24}


def _x_of(trace: dict[str, Any]) -> str:
    return trace.get("xaxis", "x")


def _y_of(trace: dict[str, Any]) -> str:
    return trace.get("yaxis", "y")


def _panel(traces: list[dict[str, Any]], layout: dict[str, Any], x: str, y: str, *, alone: bool) -> dict[str, Any]:
    """The traces on one pair of axes."""
    grouped = layout.get("scattermode") == "group"
    axes = {"x": _axis(layout, x, traces), "y": _axis(layout, y, traces)}
    if not alone and layout.get(y.replace("y", "yaxis"), {}).get("matches"):
        axes["y"]["axis"] = {"labels": False, "ticks": False, "title": None, "grid": False, "domain": False}
    layers = list(_spans(layout, x))
    below: dict[str, Any] | None = None
    for number, trace in enumerate(traces):
        layers += _layers(trace, below, layout, axes, f"{number:03d}" if grouped else None)
        below = trace
    for bar in [layer["encoding"][name] for layer in layers for name in ("fill", "stroke") if "legend" in layer["encoding"].get(name, {})][
        1:
    ]:
        bar["legend"] = None  # all traces on one colour axis share its bar
    layers += _rules(layout, x, y)
    for layer in layers:
        channels = layer["encoding"]
        for name in ("x", "y"):
            if name in channels and "datum" not in channels[name] and "value" not in channels[name]:
                channels[name] = channels[name] | axes[name]
    height = max(120, layout.get("height", 360) - 90)
    return {"width": WIDTH if alone else WIDTH // 2, "height": height, "layer": layers, "resolve": _APART}


def _axis(layout: dict[str, Any], name: str, traces: list[dict[str, Any]]) -> dict[str, Any]:
    """Type, scale and labels of one axis, for every channel on it."""
    which = name[0]
    axis = layout.get(name.replace(which, f"{which}axis", 1), {})
    values = [value for trace in traces for value in _listed(trace.get(which)) if value is not None]
    title = (axis.get("title") or {}).get("text")
    named = any(isinstance(value, str) for value in values)
    shown: dict[str, Any] = {"grid": axis.get("showgrid", not named), "domain": False, "ticks": not named}
    if axis.get("tickvals") is not None:
        ticks = list(axis["tickvals"])
        texts = {
            _in_xml(str(tick)): _in_xml(str(text).replace("<br>", " "))  # here, since JSON hides from it what it takes out
            for tick, text in zip(ticks, axis.get("ticktext") or map(str, ticks), strict=True)
        }
        shown |= {"labelExpr": f"({json.dumps(texts)})[datum.value] || datum.label"} | ({} if named else {"values": ticks})
    if named:
        order = list(dict.fromkeys([*_listed(axis.get("categoryarray")), *values]))
        order = order[::-1] if which == "y" else order  # plotly counts upwards
        return {"type": "nominal", "sort": order, "title": title or None, "scale": {"domain": order}, "axis": shown}
    scale: dict[str, Any] = {"zero": axis.get("rangemode") == "tozero", "nice": False, "padding": 12}
    if axis.get("type") == "log":
        scale = {"type": "log", "nice": False, "padding": 12}
    if axis.get("range") is not None:
        ends = [10**end for end in axis["range"]] if axis.get("type") == "log" else list(axis["range"])
        scale |= {"domain": ends, "padding": 0, "clamp": False}
    return {"type": "quantitative", "title": title or None, "scale": scale, "axis": shown}


def _layers(
    trace: dict[str, Any], below: dict[str, Any] | None, layout: dict[str, Any], axes: dict[str, Any], group: str | None
) -> list[dict[str, Any]]:
    if trace.get("type") == "bar":
        return [_bars(trace)]
    mode = trace.get("mode", "lines")
    offset = {"yOffset": {"field": "group", "type": "nominal"}} if group is not None and axes["y"]["type"] == "nominal" else {}
    layers = [_band(trace, below)] if trace.get("fill") == "tonexty" and below is not None else []
    rows = _points(trace, layout)
    for row in rows:
        row["group"] = group
    placed = [row for row in rows if row["x"] is not None and row["y"] is not None]
    layers += [_errors(placed, trace, side, offset) for side in ("x", "y") if trace.get(f"error_{side}")]
    if "lines" in mode and (trace.get("line") or {}).get("width") != 0:
        layers.append(_line(rows, trace))
    if "markers" in mode:
        layers += _marks(placed, trace, layout, offset)
    return layers


def _points(trace: dict[str, Any], layout: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per point, with all that differs between points; a place that is not a number is ``None``, where a line is broken."""
    xs, ys = ([value if value == value else None for value in _listed(trace.get(side))] for side in ("x", "y"))
    marker = trace.get("marker") or {}
    edge = marker.get("line") or {}
    names = {"symbol": "circle", "size": 6, "opacity": trace.get("opacity", 1.0), "color": (trace.get("line") or {}).get("color", _SOFT)}
    columns = {name: _spread(marker.get(name, otherwise), len(xs)) for name, otherwise in names.items()}
    columns |= {"edge": _spread(edge.get("color"), len(xs)), "width": _spread(edge.get("width", 0), len(xs))}
    for side, at in (("x", xs), ("y", ys)):
        if bars := trace.get(f"error_{side}"):
            up = _listed(bars["array"])
            down = _listed(bars.get("arrayminus")) or up
            known = [value is not None and value == value for value in up]
            known = [k and a is not None for k, a in zip(known, at, strict=True)]
            columns[f"{side}_low"] = [a - d if k else None for a, d, k in zip(at, down, known, strict=True)]
            columns[f"{side}_high"] = [a + u if k else None for a, u, k in zip(at, up, known, strict=True)]
    rows: list[dict[str, Any]] = []
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        row = {"i": i, "x": x, "y": y} | {name: values[i] for name, values in columns.items()}
        shape = str(row["symbol"]).removesuffix("-open")
        row |= {"shape": _SYMBOLS.get(shape, shape), "area": float(row["size"]) ** 2, "filled": not str(row["symbol"]).endswith("-open")}
        rows.append(row)
    return rows


def _marks(rows: list[dict[str, Any]], trace: dict[str, Any], layout: dict[str, Any], offset: dict[str, Any]) -> list[dict[str, Any]]:
    marker = trace.get("marker") or {}
    encoding: dict[str, Any] = {"x": {"field": "x"}, "y": {"field": "y"}, "shape": {"field": "shape", **_AS_IS}, **offset}
    for name, field in (("size", "area"), ("opacity", "opacity"), ("strokeWidth", "width")):
        encoding[name] = {"field": field, "type": "quantitative", "scale": None}
    for row in rows:
        row["width"] = (row["width"] if row["edge"] else 0) if row["filled"] else row["width"] or 1.5
    if not rows or not isinstance(rows[0]["color"], int | float):
        for row in rows:
            row["fill"] = row["color"] if row["filled"] else "transparent"
            row["stroke"] = row["color"] if not row["filled"] else row["edge"] or row["color"]
        encoding |= {name: {"field": name, **_AS_IS} for name in ("fill", "stroke")}
        return [{"data": {"values": rows}, "mark": {"type": "point"}, "encoding": encoding}]
    bar = marker if marker.get("colorscale") is not None else layout.get("coloraxis", {})
    colour = {"field": "color", "type": "quantitative"} | _colour_bar(bar, [row["color"] for row in rows])
    filled, hollow = ([row for row in rows if row["filled"] is wanted] for wanted in (True, False))
    for row in filled:  # the pale middle of a scale is nearly white, as is the paper
        row |= {"edge": row["edge"] or _SOFT, "width": row["width"] or 0.8}
    wider = [row | {"width": row["width"] + 1.2} for row in hollow]
    inside = {"data": {"values": filled}, "encoding": encoding | {"fill": dict(colour), "stroke": {"field": "edge", **_AS_IS}}}
    around = {"data": {"values": wider}, "encoding": encoding | {"stroke": {"value": _SOFT}}}
    outside = {"data": {"values": hollow}, "encoding": encoding | {"stroke": dict(colour)}}
    return [layer | {"mark": {"type": "point"}} for layer in (inside, around, outside) if layer["data"]["values"]]


def _colour_bar(bar: dict[str, Any], values: Sequence[float]) -> dict[str, Any]:
    named = bar.get("colorscale") or "Cividis"
    stops = get_colorscale(named) if isinstance(named, str) else named
    low, high = bar.get("cmin", min(values)), bar.get("cmax", max(values))
    title = ((bar.get("colorbar") or {}).get("title") or {}).get("text")
    domain = [low + at * (high - low) for at, _ in stops]
    legend = {"title": title, "gradientLength": 160, "gradientOpacity": 1}
    scale = {"domain": domain, "range": [colour for _, colour in stops], "clamp": True, "interpolate": "rgb"}
    return {"scale": scale, "legend": legend}


def _line(rows: list[dict[str, Any]], trace: dict[str, Any]) -> dict[str, Any]:
    line = trace.get("line") or {}
    mark = {"type": "line", "color": line.get("color", _SOFT), "strokeWidth": line.get("width", 2), "invalid": "break-paths-filter-domains"}
    mark |= {"interpolate": "step-after"} if line.get("shape") == "hv" else {}
    mark |= {"strokeDash": _DASHES[line["dash"]]} if line.get("dash") in _DASHES else {}
    return {
        "data": {"values": rows},
        "mark": mark,
        "encoding": {"x": {"field": "x"}, "y": {"field": "y"}, "order": {"field": "i", "type": "quantitative"}},
    }


def _errors(rows: list[dict[str, Any]], trace: dict[str, Any], side: str, offset: dict[str, Any]) -> dict[str, Any]:
    bars, other = trace[f"error_{side}"], "y" if side == "x" else "x"
    spans = [row for row in rows if row.get(f"{side}_low") is not None]
    mark = {"type": "rule", "color": bars.get("color", _SOFT), "strokeWidth": bars.get("thickness", 1.5)}
    encoding = {side: {"field": f"{side}_low"}, f"{side}2": {"field": f"{side}_high"}, other: {"field": other}, **offset}
    return {"data": {"values": spans}, "mark": mark, "encoding": encoding}


def _bars(trace: dict[str, Any]) -> dict[str, Any]:
    marker = trace.get("marker") or {}
    hatched = bool((marker.get("pattern") or {}).get("shape"))
    xs, ys = _listed(trace.get("x")), _listed(trace.get("y"))
    widths = _spread(trace.get("width", 0.8), len(xs))
    rows = [{"left": x - w / 2, "right": x + w / 2, "y": y, "zero": 0} for x, y, w in zip(xs, ys, widths, strict=True)]
    mark = {"type": "rect", "color": marker.get("color", _SOFT), "opacity": 0.45 if hatched else 1}
    encoding = {"x": {"field": "left"}, "x2": {"field": "right"}, "y": {"field": "y"}, "y2": {"field": "zero"}}
    return {"data": {"values": rows}, "mark": mark, "encoding": encoding}


def _band(trace: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(_listed(trace["x"]), _listed(below["y"]), _listed(trace["y"]), strict=True)
    rows = [{"x": x, "low": low, "high": high} for x, low, high in pairs]
    mark = {"type": "area", "color": trace.get("fillcolor", _GRID)}
    mark |= {"interpolate": "step-after"} if (trace.get("line") or {}).get("shape") == "hv" else {}
    return {"data": {"values": rows}, "mark": mark, "encoding": {"x": {"field": "x"}, "y": {"field": "low"}, "y2": {"field": "high"}}}


def _spans(layout: dict[str, Any], x: str) -> Iterable[dict[str, Any]]:
    """Shaded ranges of the x axis."""
    for shape in layout.get("shapes", ()):
        if shape["type"] == "rect" and shape.get("xref", "x") == x:
            mark = {"type": "rect", "color": shape.get("fillcolor", _GRID), "opacity": shape.get("opacity", 1.0)}
            encoding = {"x": {"field": "low"}, "x2": {"field": "high"}}
            yield {"data": {"values": [{"low": shape["x0"], "high": shape["x1"]}]}, "mark": mark, "encoding": encoding}


def _rules(layout: dict[str, Any], x: str, y: str) -> Iterable[dict[str, Any]]:
    """Lines across the whole chart, and annotations."""
    for shape in layout.get("shapes", ()):
        line = shape.get("line") or {}
        mark = {"type": "rule", "color": line.get("color", _SOFT), "strokeWidth": line.get("width", 1)}
        mark |= {"strokeDash": _DASHES[line["dash"]]} if line.get("dash") in _DASHES else {}
        for side, other, own in (("x", "y", x), ("y", "x", y)):
            if shape["type"] == "line" and str(shape.get(f"{other}ref", "")).endswith(" domain") and shape.get(f"{side}ref") == own:
                yield {"data": {"values": [{"at": shape[f"{side}0"]}]}, "mark": mark, "encoding": {side: {"field": "at"}}}
    for note in layout.get("annotations", ()):
        words = str(note["text"]).replace("<b>", "").replace("</b>", "")
        mark = {"type": "text", "align": "center", "baseline": "bottom", "color": (note.get("font") or {}).get("color", _SOFT), "dy": -3}
        place: dict[str, Any] = {name: {"field": name} for name in ("x", "y")}
        if str(note.get("xref", "x")).endswith(" domain"):
            mark |= {"align": "right"}
            place["x"] = {"value": "width"}
        elif note.get("xref", "x") != x:
            continue
        yield {
            "data": {"values": [{"x": note["x"], "y": note["y"], "words": words}]},
            "mark": mark,
            "encoding": place | {"text": {"field": "words"}},
        }


def _legend(traces: list[dict[str, Any]], layout: dict[str, Any]) -> list[dict[str, Any]]:
    """A layer without marks, whose scales make the legend."""
    named = [trace for trace in traces if trace.get("name") and trace.get("showlegend", True) is not False]
    if layout.get("showlegend") is False or (len(named) < 2 and not any(trace.get("showlegend") for trace in named)):
        return []
    names, colours, shapes, fills = [], [], [], []
    for trace in named:
        marker, line = trace.get("marker") or {}, trace.get("line") or {}
        bar, marked = trace.get("type") == "bar", "markers" in trace.get("mode", "")
        colour = marker.get("color") if marked or bar else trace.get("fillcolor") or line.get("color")
        symbol: Any = marker.get("symbol", "circle") if marked else "square" if bar or trace.get("fill") else "stroke"
        if not isinstance(symbol, str):  # it differs between points, so the legend tells of the colour alone
            symbol = str(next(iter(symbol), "circle")).removesuffix("-open")
        names.append(trace["name"])
        colours.append(colour if isinstance(colour, str) else _SOFT)
        fills.append("transparent" if symbol.endswith("-open") else colours[-1])
        shapes.append(_SYMBOLS.get(symbol.removesuffix("-open"), symbol.removesuffix("-open")))
    title = ((layout.get("legend") or {}).get("title") or {}).get("text")
    legend = {"title": title, "symbolOpacity": 1, "symbolSize": 80, "symbolStrokeWidth": 2}
    if (layout.get("legend") or {}).get("orientation") == "h":
        legend |= {"orient": "top", "columns": 4, "columnPadding": 24}
    channels = {
        name: {"field": "name", "type": "nominal", "legend": legend, "scale": {"domain": names, "range": values}}
        for name, values in (("stroke", colours), ("fill", fills), ("shape", shapes))
    }
    return [{"data": {"values": [{}]}, "transform": [{"filter": "false"}], "mark": {"type": "point"}, "encoding": channels}]


def _listed(values: Any) -> list[Any]:
    """Plotly's values as a list: a list, an array, or an array packed as base64."""
    if isinstance(values, dict):
        raise DataError("a packed plotly array cannot be written as SVG or PDF: give the figure lists")
    values = [] if values is None else list(values)
    return [value.item() if hasattr(value, "item") else value for value in values]


def _spread(value: Any, n: int) -> list[Any]:
    """One value for each point, from one for all or from a list."""
    return [value] * n if value is None or isinstance(value, str | int | float) else _listed(value)
