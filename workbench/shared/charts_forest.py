"""Forest plots: one row an estimate, its 95 % interval as a bar, the line of no difference, and the verdict by colour and shape."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.shared.charts_colours import CHOSEN, GREY, VERDICTS
from workbench.shared.charts_intervals import reach

ROW = 26
"""Pixels a row: enough for a name and a finger."""
_LONGEST = 46


def forest(table: pd.DataFrame, title: str, chosen: str | None = None) -> go.Figure:
    """Columns ``name``, ``value``, ``low``, ``high``, ``verdict`` and ``hover``; the first row on top.

    ``customdata[0]`` of a point is its name; the row of ``chosen`` is ringed.
    """
    figure = go.Figure()
    names = table["name"].tolist()
    if chosen in names:
        here = table[table["name"] == chosen]
        ring = {"size": 18, "symbol": "circle-open", "color": CHOSEN, "line": {"width": 2.5}}
        figure.add_trace(go.Scatter(x=here["value"], y=here["name"], mode="markers", marker=ring, hoverinfo="skip", showlegend=False))
    for verdict in VERDICTS:
        part = pd.DataFrame(table[table["verdict"] == verdict])
        if len(part):
            figure.add_trace(_marks(part, verdict, named=verdict != ""))
    figure.update_layout(
        xaxis_title=title,
        height=90 + ROW * len(names),
        margin={"l": 10, "r": 10, "t": 30, "b": 40},
        clickmode="event+select",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1, "x": 0},
    )
    _rows(figure, names)
    figure.add_vline(0, line_color=GREY, line_width=1, line_dash="dot")
    return figure


def method_forest(accuracies: pd.DataFrame, differences: pd.DataFrame, baseline: str) -> go.Figure:
    """Accuracies of all methods beside their paired differences from the baseline, both in percent, one row a method."""
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.03, column_widths=[0.5, 0.5])
    names = accuracies["name"].tolist()
    figure.add_trace(_marks(accuracies, "accuracy", named=False), row=1, col=1)
    for verdict in VERDICTS:
        part = pd.DataFrame(differences[differences["verdict"] == verdict])
        if len(part):
            figure.add_trace(_marks(part, verdict, named=True), row=1, col=2)
    at = dict(zip(names, accuracies["value"], strict=True)).get(baseline)
    if at is not None:
        figure.add_vline(at, line_color=GREY, line_width=1, line_dash="dot", row=1, col=1)  # type: ignore[arg-type]
    figure.add_vline(0, line_color=GREY, line_width=1, line_dash="dot", row=1, col=2)  # type: ignore[arg-type]
    figure.update_xaxes(title_text="accuracy (%)", range=[-2, 102], row=1, col=1)
    figure.update_xaxes(title_text=f"accuracy minus {baseline}'s (percentage points)", row=1, col=2)
    figure.update_layout(
        height=110 + ROW * len(names),
        margin={"l": 10, "r": 10, "t": 30, "b": 40},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1, "x": 1, "xanchor": "right"},
    )
    _rows(figure, names)
    return figure


def _rows(figure: go.Figure, names: list[str]) -> None:
    short = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
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
