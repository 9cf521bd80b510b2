"""The library as a map: one point an entry, filled when it is in the basis, coloured by any column.

Knows nothing of what is chosen: it is drawn once and stays, with its zoom, while rings and lines are laid over it.
"""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.shared.charts_colours import CORRECTIVE, DIVERGING, GREY, NULL, SEQUENTIAL, categorical, ordered, symmetric

_LEGEND_LIMIT = 12
_MANY = 1000
"""From here on points are drawn by WebGL, which keeps panning smooth."""
_KNOWN = {"corrective": CORRECTIVE, "null": NULL, "passes": "#009e73", "flagged": CORRECTIVE, "cannot tell": GREY}


def action_map(table: pd.DataFrame, projection: str, column: str, scale: str) -> go.Figure:
    """Scatter of entries; ``customdata[0]`` of a point is its entry id.

    Args:
        table: columns ``entry, x, y, m, layer, kind, in the basis`` and ``value``, the column to colour by.
        projection: name of the map, for the axes.
        column: what ``value`` is, for the legend.
        scale: see :data:`workbench.basis.columns.Scale`.
    """
    figure = go.Figure()
    known = pd.DataFrame(table[table["value"].notna()])
    missing = pd.DataFrame(table[table["value"].isna()])
    kind: Any = go.Scattergl if len(table) > _MANY else go.Scatter
    if len(missing):
        figure.add_trace(_points(kind, missing, "none", column, opacity=0.45, marker={"color": GREY}))
    if scale in ("sequential", "signed"):
        figure.add_trace(_points(kind, known, column, column, marker=_continuous(known, column, signed=scale == "signed")))
    else:
        for label, part, colour in _groups(known, scale):
            figure.add_trace(_points(kind, part, label, column, marker={"color": colour}))
    _dress(figure, projection, column, legend=scale in ("ordered", "category") and len(set(known["value"].tolist())) <= _LEGEND_LIMIT)
    return figure


def _dress(figure: go.Figure, projection: str, column: str, *, legend: bool) -> None:
    unit = "arbitrary unit" if projection == "umap" else "along a principal axis of the keys"
    figure.update_layout(
        xaxis_title=f"{projection.upper()} 1 ({unit})",
        yaxis_title=f"{projection.upper()} 2 ({unit})",
        legend_title_text="control point m" if column == "m" else column,
        showlegend=legend,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        height=470,
        dragmode="pan",
        clickmode="event+select",
    )
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(zeroline=False)


def _points(kind: Any, part: pd.DataFrame, name: str, column: str, *, marker: dict[str, object], opacity: float = 1.0) -> Any:
    shape = ["circle" if selected else "circle-open" for selected in part["in the basis"]]
    said = [_said(value) for value in part["value"]]
    rows = [[*row, value] for row, value in zip(part[["entry", "m", "layer", "kind"]].values.tolist(), said, strict=True)]
    last = "" if column in ("m", "layer", "kind") else f"<br>{column} %{{customdata[4]}}"
    return kind(
        x=part["x"].tolist(),
        y=part["y"].tolist(),
        mode="markers",
        name=name,
        customdata=rows,
        hovertemplate=f"<b>%{{customdata[0]}}</b>  m %{{customdata[1]}}, layer %{{customdata[2]}}, %{{customdata[3]}}{last}<extra></extra>",
        marker={"size": 10 if kind is go.Scatter else 6, "symbol": shape, "line": {"width": 1.5}, "opacity": opacity, **marker},
        selected={"marker": {"opacity": opacity}},
        unselected={"marker": {"opacity": opacity}},  # what is chosen or lassoed is said by rings, not by fading all others for good
    )


def _said(value: object) -> str:
    if value is None or value != value:  # not a number
        return "not measured"
    if not isinstance(value, float):
        return str(value)
    return f"{value:g}" if value == round(value) else f"{value:.3f}"


def _continuous(part: pd.DataFrame, column: str, *, signed: bool) -> dict[str, object]:
    values = part["value"].astype(float).tolist()
    scale: dict[str, object] = {
        "color": values,
        "showscale": True,
        "colorbar": {"title": {"text": column}, "thickness": 12, "outlinewidth": 0},
    }
    if not signed:
        return scale | {"colorscale": SEQUENTIAL}
    low, high = symmetric(values)
    steps = [[i / (len(DIVERGING) - 1), colour] for i, colour in enumerate(DIVERGING)]
    return scale | {"colorscale": steps, "cmin": low, "cmax": high}


def _groups(table: pd.DataFrame, scale: str) -> list[tuple[str, pd.DataFrame, str]]:
    values = sorted(table["value"].unique(), key=lambda value: (isinstance(value, str), value), reverse=table["value"].dtype == bool)
    if scale == "ordered":
        colours = ordered(len(values))
    elif all(value in (True, False) for value in values):
        colours = [CORRECTIVE if value else GREY for value in values]
    elif all(value in _KNOWN for value in values):
        colours = [_KNOWN[value] for value in values]
    else:
        colours = categorical(len(values))
    parts = {value: pd.DataFrame(table[table["value"] == value]) for value in values}
    return [(_name(value), parts[value], colour) for value, colour in zip(values, colours, strict=True)]


def _name(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else _said(value)
