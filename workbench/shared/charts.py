"""Colours, axes and charts that several pages share.

Colours are distinguishable with colour-blindness and on light and dark backgrounds.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from stir_core.records import Lens
from workbench.shared.codes import CATEGORIES
from workbench.shared.text import visible_token

CORRECTIVE, NULL = "#d55e00", "#3a87c8"
"""The two kinds of entry (vermilion and blue of Okabe and Ito, the blue a little lighter for dark backgrounds)."""
CHOSEN = "#e6007e"
"""Rings and frames: distinct from every scale used here, on both backgrounds."""
GREY = "#8a8f98"
"""Lines and marks whose colour has no meaning; readable on both backgrounds."""
CONTROL_POINTS = alt.X("m:O", title="control point m (finished steps)", axis=alt.Axis(labelAngle=0))
KINDS = alt.Color("kind:N", scale=alt.Scale(domain=["corrective", "null"], range=[CORRECTIVE, NULL]), title="kind")
VERDICTS = {
    "helps": (CORRECTIVE, "triangle-up"),
    "no effect seen": (GREY, "circle"),
    "harms": (NULL, "triangle-down"),
    "cannot tell": (GREY, "circle-open"),
    "": (GREY, "circle"),
}
"""Colour and shape of an effect's verdict: warm above 0, cold below, as in the diverging scale; the shape repeats it."""
VANILLA, STEERED = GREY, CORRECTIVE
DIVERGING = ("#2166ac", "#67a9cf", "#d1e5f0", "#f4f4f4", "#fddbc7", "#ef8a62", "#b2182b")
"""Blue below 0, red above (ColorBrewer RdBu); always used with a domain that is symmetric about 0."""
SEQUENTIAL = "cividis"
ORDERED = ("#3a87c8", "#1f9488", "#7d8a2e", "#b3771c", "#d55e00")
"""Ordered marks: from blue to vermilion at about one luminance, so that all are legible on a light and on a dark page."""


def step_bars(table: pd.DataFrame, count: str, versions: str) -> alt.Chart:
    """Entries at every control point by kind, one group of bars a control point.

    Args:
        table: columns ``m``, ``kind`` and these two.
        count: column with the number of entries.
        versions: column that names up to three versions of a library; the last one is solid.
    """
    names = list(dict.fromkeys(table[versions]))
    opacity = alt.Scale(domain=names, range=[0.4, 0.7, 1.0] if len(names) == 3 else [0.4, 1.0][-len(names) :])
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=CONTROL_POINTS,
            xOffset=alt.XOffset(f"{versions}:N", sort=names),
            y=alt.Y(f"sum({count}):Q", title=f"{count} (count)", axis=alt.Axis(tickMinStep=1)),
            color=KINDS,
            opacity=alt.Opacity(f"{versions}:N", scale=opacity, title=versions, sort=names),
            tooltip=[f"{versions}:N", "m:O", "kind:N", alt.Tooltip(f"{count}:Q", title=count)],
        )
        .properties(height=220)
    )


def ordered_colours(n: int) -> list[str]:
    """``n`` colours in increasing order, from :data:`ORDERED`."""
    return [str(colour) for colour in sample_colorscale(list(ORDERED), [i / max(1, n - 1) for i in range(n)])]


def categorical(n: int) -> list[str]:
    """``n`` colours for unordered categories; they repeat after ten, so a legend must not rely on colour alone then."""
    return [CATEGORIES[i % len(CATEGORIES)] for i in range(n)]


def symmetric(values: Sequence[float], floor: float = 1e-6) -> tuple[float, float]:
    """A domain centred on 0 that holds all values."""
    reach = max([abs(value) for value in values] + [floor])
    return -reach, reach


def around(lows: Iterable[float], highs: Iterable[float]) -> tuple[float, float]:
    """The range of an axis in percent that holds all intervals with a little room."""
    low, high = min(lows, default=0.0), max(highs, default=100.0)
    room = max(1.0, 0.06 * (high - low))
    return low - room, high + room


def reach(values: Iterable[float], lows: Iterable[float], highs: Iterable[float], **style: Any) -> dict[str, Any]:
    """Error bars from ``low`` to ``high`` around each value, for plotly's ``error_x`` and ``error_y``."""
    values, lows, highs = list(values), list(lows), list(highs)
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for high, value in zip(highs, values, strict=True)],
        "arrayminus": [value - low for low, value in zip(lows, values, strict=True)],
        **style,
    }


def set_axes(figure: go.Figure, x: str, y: str, **layout: Any) -> None:
    """Titles of both axes, narrow margins and no zero lines; ``layout`` goes to plotly's ``update_layout``."""
    figure.update_layout({"margin": {"l": 10, "r": 10, "t": 10, "b": 10}} | layout, xaxis_title=x, yaxis_title=y)
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(zeroline=False)


def vertical_rule(field: str, at: float, colour: str, dash: Sequence[int] = (1, 0)) -> alt.Chart:
    """A line across an Altair chart at one value of the quantitative ``field`` on its x axis."""
    return alt.Chart(pd.DataFrame({field: [at]})).mark_rule(color=colour, strokeDash=dash, strokeWidth=2).encode(x=f"{field}:Q")


def gate_axes() -> go.Figure:
    """An empty map: the gate commits above the dashed line; right of the dotted one, previews beat the unsteered one."""
    figure = go.Figure()
    figure.add_hline(
        0, line_color=GREY, line_width=1.5, line_dash="dash", annotation_text="null score: commit above", annotation_font_color=GREY
    )
    figure.add_vline(0, line_color=GREY, line_width=1, line_dash="dot")
    set_axes(
        figure,
        "preview gain (P_i − P_null, nats per token)",
        "margin (score minus null score)",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1, "x": 0},
        height=430,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        clickmode="event+select",
        dragmode="pan",
    )
    return figure


def key_mark(name: str, **marker: Any) -> go.Scatter:
    """An entry of the legend without a point."""
    return go.Scatter(x=[None], y=[None], mode="markers", name=name, marker={"size": 10, "color": GREY} | marker)


ROW = 26
"""Height of a row in pixels."""
_LONGEST = 46


def forest(table: pd.DataFrame, title: str, chosen: str | None = None) -> go.Figure:
    """Columns ``name``, ``n``, ``value``, ``low``, ``high``, ``verdict`` and ``hover``; the first row on top. No interval: an open mark.

    ``customdata[0]`` of a point is its name; the row of ``chosen`` is ringed.
    """
    figure = go.Figure()
    names = table["name"].tolist()
    if chosen in names:
        here = table[table["name"] == chosen]
        ring = {"size": 18, "symbol": "circle-open", "color": CHOSEN, "line": {"width": 2.5}}
        figure.add_trace(go.Scatter(x=here["value"], y=here["name"], mode="markers", marker=ring, hoverinfo="skip", showlegend=False))
    figure.add_traces(_verdict_marks(table))
    figure.update_layout(
        xaxis_title=title,
        height=90 + ROW * len(names),
        margin={"l": 10, "r": 10, "t": 30, "b": 40},
        clickmode="event+select",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1, "x": 0},
    )
    _rows(figure, names, table["n"].tolist())
    figure.add_vline(0, line_color=GREY, line_width=1, line_dash="dot")
    return figure


def method_forest(accuracies: pd.DataFrame, differences: pd.DataFrame, baseline: str) -> go.Figure:
    """Accuracies of all methods in percent beside their paired differences from the baseline in points, one row per method."""
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.03, column_widths=[0.5, 0.5])
    names = accuracies["name"].tolist()
    figure.add_trace(_marks(accuracies, "accuracy", named=False), row=1, col=1)
    marks = _verdict_marks(differences)
    figure.add_traces(marks, rows=[1] * len(marks), cols=[2] * len(marks))
    at = dict(zip(names, accuracies["value"], strict=True)).get(baseline)
    if at is not None:
        figure.add_vline(at, line_color=GREY, line_width=1, line_dash="dot", row=1, col=1)  # type: ignore[arg-type]
    figure.add_vline(0, line_color=GREY, line_width=1, line_dash="dot", row=1, col=2)  # type: ignore[arg-type]
    figure.update_xaxes(title_text="accuracy (%)", range=around(accuracies["low"], accuracies["high"]), row=1, col=1)
    figure.update_xaxes(title_text="change (points)", row=1, col=2)
    figure.update_layout(
        height=110 + ROW * len(names),
        margin={"l": 10, "r": 10, "t": 30, "b": 40},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1, "x": 1, "xanchor": "right"},
    )
    _rows(figure, names, accuracies["n"].tolist())
    return figure


def _rows(figure: go.Figure, names: list[str], counts: list[str]) -> None:
    short = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
    short = [f"{name.replace(' (', '<br>(', len(name) > 24)}  ({n})" for name, n in zip(short, counts, strict=True)]
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=names[::-1],
        range=[-0.7, len(names) - 0.3],
        tickmode="array",
        tickvals=names,
        ticktext=short,
        automargin=True,
        showgrid=False,
    )


def _verdict_marks(table: pd.DataFrame) -> list[go.Scatter]:
    """One trace per verdict that occurs in the table."""
    parts = {verdict: pd.DataFrame(table[table["verdict"] == verdict]) for verdict in VERDICTS}
    return [_marks(part, verdict, named=verdict != "") for verdict, part in parts.items() if len(part)]


def _marks(part: pd.DataFrame, name: str, *, named: bool) -> go.Scatter:
    colour, shape = VERDICTS.get(name, VERDICTS[""])
    bars = reach(part["value"], part["low"], part["high"], thickness=1.6, width=3, color=colour)
    return go.Scatter(
        x=part["value"],
        y=part["name"],
        error_x=bars,
        mode="markers",
        name=name,
        showlegend=named,
        customdata=part[["name", "hover"]].values.tolist(),
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        marker={"size": 10, "color": colour, "symbol": shape},
    )


def lens_table(lens: Lens, n: int = 10) -> pd.DataFrame:
    """The ``n`` most promoted and most suppressed tokens; the id tells tokens of equal text apart."""
    tokens = [*lens.promoted[:n], *reversed(lens.suppressed[:n])]
    rows = [(visible_token(t.text), t.token_id, t.logit, "promoted" if t.logit >= 0 else "suppressed") for t in tokens]
    table = pd.DataFrame(rows, columns=["text", "id", "logit", "sign"])
    return table.assign(token=[f"{text}  {id_}" for text, id_, *_ in rows])


DIRECT = "direct logit effect (per unit α)"
"""What the logit lens shows."""


def lens_bars(lens: Lens, n: int = 10, *, title: str = DIRECT) -> alt.Chart:
    """Horizontal bars around 0: the effect of a unit multiple of the action on each token's logit."""
    table = lens_table(lens, n)
    return (
        alt.Chart(table)
        .mark_bar(height={"band": 0.75})
        .encode(
            x=alt.X("logit:Q", title=title),
            y=alt.Y(
                "token:N",
                sort=list(table["token"]),
                title="token and its id",
                axis=alt.Axis(
                    labelFont="monospace", labelLimit=150, labelOverlap=False, labelBound=False, labelFlush=False, labelFontSize=10
                ),
            ),
            color=alt.Color("sign:N", scale=alt.Scale(domain=["promoted", "suppressed"], range=[DIVERGING[-1], DIVERGING[1]]), legend=None),
            tooltip=[alt.Tooltip("text:N", title="token"), alt.Tooltip("id:Q", format="d"), alt.Tooltip("logit:Q", format="+.3f")],
        )
        .properties(height=15 * len(table) + 50)
    )


GATE_CELL = "gate_cell"
"""Name of the point selection: fields ``m`` and ``entry``."""


def margin_heatmap(table: pd.DataFrame, n_steps: int) -> alt.Chart:
    """Control point by candidate, of :func:`workbench.shared.gate_replay.margin_rows`; committed framed, after a flip pale."""
    low, high = symmetric(list(table["margin"]), floor=0.01)
    entries = list(dict.fromkeys(table.sort_values("m")["entry"]))
    tooltip = [
        "m:O",
        "entry:N",
        *[alt.Tooltip(f"{name}:Q", format=".3f") for name in ("cosine", "value", "gain", "score", "margin")],
        "committed:N",
    ]
    cell = alt.selection_point(name=GATE_CELL, fields=["m", "entry"])
    steps = alt.Scale(domain=list(range(n_steps)), paddingInner=0.01)
    return (
        alt.Chart(table)
        .mark_rect(stroke=CHOSEN)
        .encode(
            x=alt.X("m:O", title="control point m", scale=steps, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("entry:N", sort=entries, title="entry", scale=alt.Scale(paddingInner=0.15), axis=alt.Axis(labelOverlap=False)),
            color=alt.Color(
                "margin:Q",
                scale=alt.Scale(domain=[low, high], domainMid=0, range=list(DIVERGING)),
                legend=alt.Legend(title="score - null", format=".2f"),
            ),
            strokeWidth=alt.condition("datum.committed", alt.value(2.5), alt.value(0)),
            opacity=alt.condition("datum.diverged", alt.value(0.35), alt.value(1)),
            tooltip=tooltip,
        )
        .add_params(cell)
        .properties(height=max(140, 22 * len(entries) + 50))
    )


def margin_terms(table: pd.DataFrame, least: float = 0.0) -> alt.LayerChart:
    """Stacked terms of :func:`workbench.gates.data.term_rows` about 0, a tick at their sum; dashed: the margin to be exceeded.

    Args:
        least: the margin that must be exceeded to commit; above 0 where ``tau_null`` exceeds the null score.
    """
    names, terms = (list(dict.fromkeys(table[name])) for name in ("candidate", "term"))
    y = alt.Y("candidate:N", sort=names, title="entry", axis=alt.Axis(labelOverlap=False))
    numbers = ["amount", "margin", "beta value", "rho gain", "null score", "score"]
    tooltip = ["candidate:N", "fate:N", "term:N", *(alt.Tooltip(f"{name}:Q", format="+.3f") for name in numbers)]
    base = alt.Chart(table).encode(y=y, tooltip=tooltip)
    bars = base.mark_bar(size=13).encode(
        x=alt.X("amount:Q", stack="zero", title="margin (score minus null score)"),
        color=alt.Color(
            "term:N", scale=alt.Scale(domain=terms, range=[CORRECTIVE, NULL][: len(terms)]), legend=alt.Legend(title="", orient="top")
        ),
    )
    sums = base.mark_tick(color=CHOSEN, thickness=4, size=22).encode(x="margin:Q")
    rule = vertical_rule("at", least, GREY, [5, 4]).encode(tooltip=[alt.Tooltip("at:Q", title="to exceed")])
    return alt.LayerChart(layer=[bars, sums, rule]).properties(height=130 + 34 * len(names))
