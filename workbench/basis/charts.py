"""Charts of the basis: the map, the cosines in cluster order, coverage, and selection replayed."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.shared.charts import (
    CHOSEN,
    CONTROL_POINTS,
    CORRECTIVE,
    DIVERGING,
    GREY,
    KINDS,
    NULL,
    ORDERED,
    SEQUENTIAL,
    categorical,
    ordered_colours,
    set_axes,
    symmetric,
)

_LEGEND_LIMIT = 12
_MANY = 1000
"""With more points the map is drawn by WebGL, which keeps panning smooth."""
_KNOWN = {"corrective": CORRECTIVE, "null": NULL, "passes": "#009e73", "flagged": CORRECTIVE, "cannot tell": GREY}
_KNOWN |= {"helps": CORRECTIVE, "harms": NULL, "no effect seen": "#7d8a2e"}


def action_map(table: pd.DataFrame, projection: str, column: str, scale: str) -> go.Figure:
    """Scatter of entries; ``customdata[0]`` of a point is its entry id.

    Args:
        table: columns ``entry, x, y, m, layer, kind, in the basis`` and ``value``, the column to colour by.
        projection: name of the map, for the axes.
        column: name of the column in ``value``, for the legend.
        scale: see :data:`workbench.basis.data.Scale`.
    """
    figure = go.Figure()
    known = pd.DataFrame(table[table["value"].notna()])
    missing = pd.DataFrame(table[table["value"].isna()])
    kind = go.Scattergl if len(table) > _MANY else go.Scatter
    if len(missing):
        figure.add_trace(_points(kind, missing, "none", column, opacity=0.45, marker={"color": GREY}))
    if scale in ("sequential", "signed"):
        figure.add_trace(_points(kind, known, column, column, marker=_continuous(known, column, signed=scale == "signed")))
    else:
        for label, part, colour in _groups(known, scale):
            figure.add_trace(_points(kind, part, label, column, marker={"color": colour}))
    unit = "arbitrary unit" if projection == "umap" else "along a principal axis of the keys"
    set_axes(
        figure,
        f"{projection.upper()} 1 ({unit})",
        f"{projection.upper()} 2 ({unit})",
        legend_title_text="control point m" if column == "m" else column,
        showlegend=scale in ("ordered", "category") and len(set(known["value"].tolist())) <= _LEGEND_LIMIT,
        height=470,
        dragmode="pan",
        clickmode="event+select",
    )
    return figure


def _points(
    kind: type[go.Scatter | go.Scattergl], part: pd.DataFrame, name: str, column: str, *, marker: dict[str, object], opacity: float = 1.0
) -> go.Scatter | go.Scattergl:
    shape = ["circle" if selected else "circle-open" for selected in part["in the basis"]]
    texts = [_value_text(value) for value in part["value"]]
    rows = [[*row, value] for row, value in zip(part[["entry", "m", "layer", "kind"]].values.tolist(), texts, strict=True)]
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
        unselected={"marker": {"opacity": opacity}},  # rings mark the chosen and lassoed points; others do not fade
    )


def _value_text(value: object) -> str:
    if value is None or value != value:  # not a number
        return "not measured"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
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
        colours = ordered_colours(len(values))
    elif all(value in (True, False) for value in values):
        colours = [CORRECTIVE if value else GREY for value in values]
    elif all(value in _KNOWN for value in values):
        colours = [_KNOWN[value] for value in values]
    else:
        colours = categorical(len(values))
    parts = {value: pd.DataFrame(table[table["value"] == value]) for value in values}
    return [(_value_text(value), parts[value], colour) for value, colour in zip(values, colours, strict=True)]


CELL = "cell"
"""Name of the point selection: fields ``i`` and ``j`` are entry ids."""


def cosine_heatmap(table: pd.DataFrame, *, full_range: bool = True, size: int = 520, chosen: str | None = None) -> alt.Chart:
    """Heatmap of :func:`workbench.basis.data.heatmap_table`.

    With ``full_range`` the colours run from -1 to 1 with 0 in the middle; without, from the smallest cosine to 1 on a sequential scale.
    Row and column of ``chosen`` are framed.
    """
    order = list(table.drop_duplicates("row").sort_values("row")["i"])
    labelled = len(order) <= 48
    axis = alt.Axis(labels=labelled, ticks=labelled, labelFontSize=9, labelAngle=-90, labelOverlap=False)
    side = alt.Axis(labels=labelled, ticks=labelled, labelFontSize=9, labelOverlap=False)
    if full_range:
        scale = alt.Scale(domain=[-1, 1], domainMid=0, range=list(DIVERGING))
    else:
        scale = alt.Scale(domain=[min(table["cosine"].tolist(), default=0.0), 1.0], scheme=SEQUENTIAL)
    cell = alt.selection_point(name=CELL, fields=["i", "j"])
    mine = alt.param(name="chosen", value=chosen or "")
    framed = "datum.i === chosen || datum.j === chosen"
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X("j:N", sort=order, title="entry, in cluster order", axis=axis),
            y=alt.Y("i:N", sort=order, title="entry, in cluster order", axis=side),
            color=alt.Color("cosine:Q", scale=scale, legend=alt.Legend(title="cosine", gradientLength=180)),
            stroke=alt.condition(framed, alt.value(CHOSEN), alt.value("transparent")),
            strokeWidth=alt.condition(framed, alt.value(0.7), alt.value(0)),
            tooltip=[
                alt.Tooltip("i:N", title="row"),
                alt.Tooltip("m_i:Q", title="row's m"),
                alt.Tooltip("j:N", title="column"),
                alt.Tooltip("m_j:Q", title="column's m"),
                alt.Tooltip("cosine:Q", format=".3f"),
            ],
        )
        .add_params(cell, mine)
        .properties(height=size)
    )


def coverage_chart(table: pd.DataFrame) -> alt.Chart:
    """Stacked bars of :func:`workbench.basis.data.coverage_chart`: selected solid, dropped faint."""
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=CONTROL_POINTS,
            y=alt.Y("sum(entries):Q", title="entries (count)", axis=alt.Axis(tickMinStep=1)),
            color=KINDS,
            opacity=alt.Opacity("fate:N", scale=alt.Scale(domain=["selected", "dropped"], range=[1.0, 0.35]), title="fate"),
            order=alt.Order("fate:N", sort="descending"),
            tooltip=["m:O", "kind:N", "fate:N", alt.Tooltip("entries:Q", title="entries")],
        )
        .properties(height=260)
    )


PICKED = "picked"
"""Name of the point selection of both charts: field ``pick``, counted from 1."""
PARTS = ("quality gain", "log-det gain")
_GROUND = 1500
"""Maximum number of entries drawn in the background: beyond that every second, third, ... one."""


def picks_map(table: pd.DataFrame, now: int) -> alt.LayerChart:
    """The picks up to ``now`` over all entries: early ones dark, the last one ringed.

    Args:
        table: one row per entry, columns ``entry, x, y`` and ``pick`` (empty where not picked).
        now: number of picks shown.
    """
    axis = alt.Axis(labels=False, ticks=False, grid=False, domain=False)
    x = alt.X("x:Q", title=None, axis=axis, scale=alt.Scale(zero=False))
    y = alt.Y("y:Q", title=None, axis=axis, scale=alt.Scale(zero=False))
    done = pd.DataFrame(table[table["pick"] <= now])
    last = pd.DataFrame(table[table["pick"] == now])
    ground = table.iloc[:: -(-len(table) // _GROUND)]
    tooltip = ["entry:N", "pick:Q"]
    order = alt.Color(
        "pick:Q",
        scale=alt.Scale(range=list(ORDERED), domain=[1, max([2, *(int(pick) for pick in table["pick"].dropna().tolist())])]),
        legend=alt.Legend(title="pick", tickMinStep=1),
    )
    return alt.LayerChart(
        layer=[
            alt.Chart(ground).mark_circle(size=9, color=GREY, opacity=0.35).encode(x=x, y=y),
            alt.Chart(done).mark_circle(size=46, opacity=0.95).encode(x=x, y=y, color=order, tooltip=tooltip),
            alt.Chart(last).mark_point(size=230, color=CHOSEN, strokeWidth=2.4, filled=False).encode(x=x, y=y, tooltip=tooltip),
        ]
    ).properties(height=330)


def gain_chart(table: pd.DataFrame, now: int) -> alt.Chart:
    """Both parts of every pick's gain as points over its number, later picks faint; a click on one chooses it."""
    columns = ["pick", "entry", "gain", "forced", *PARTS]
    long = table[columns].melt(["pick", "entry", "gain", "forced"], list(PARTS), "part", "value")
    go_there: Any = alt.selection_point(name=PICKED, fields=["pick"])
    return (
        alt.Chart(long)
        .mark_point(filled=True, size=42)
        .encode(
            x=alt.X("pick:Q", title="pick (order of selection)", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("value:Q", title="part of the marginal gain"),
            color=alt.Color("part:N", scale=alt.Scale(domain=list(PARTS), range=[CORRECTIVE, NULL]), title="part"),
            shape=alt.Shape("forced:N", scale=alt.Scale(domain=[False, True], range=["circle", "square"]), title="forced in"),
            opacity=alt.condition(f"datum.pick <= {now}", alt.value(1.0), alt.value(0.25)),
            size=alt.condition(f"datum.pick == {now}", alt.value(150), alt.value(42)),
            tooltip=[
                "pick:Q",
                "entry:N",
                "part:N",
                alt.Tooltip("value:Q", format="+.3f"),
                alt.Tooltip("gain:Q", format="+.3f", title="gain of the objective"),
                "forced:N",
            ],
        )
        .add_params(go_there)
        .properties(height=330)
    )
