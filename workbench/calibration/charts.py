"""Accuracy of methods by rung."""

import pandas as pd
import plotly.graph_objects as go

from workbench.shared.charts import ROW, categorical, reach, set_axes

SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "star")


def accuracy_chart(table: pd.DataFrame) -> go.Figure:
    """Methods of :func:`workbench.calibration.data.accuracy_table` one below the other, rungs side by side in each; Wilson intervals."""
    figure = go.Figure()
    rungs, methods = (list(dict.fromkeys(table[name])) for name in ("rung", "method"))
    for i, (rung, colour) in enumerate(zip(rungs, categorical(len(rungs)), strict=True)):
        part = pd.DataFrame(table[table["rung"] == rung])
        figure.add_trace(
            go.Scatter(
                x=part["value"],
                y=part["method"],
                orientation="h",
                error_x=reach(part["value"], part["low"], part["high"], thickness=1.6, width=3, color=colour),
                mode="markers",
                name=rung,
                marker={"size": 9, "color": colour, "symbol": SHAPES[i % len(SHAPES)]},
                customdata=part[["right", "low", "high", "versus"]].values.tolist(),
                hovertemplate=f"<b>{rung}</b>, %{{y}}<br>%{{x:.1f}} % [%{{customdata[1]:.1f}}, %{{customdata[2]:.1f}}], %{{customdata[0]}}"
                "<br>against vanilla: %{customdata[3]}<extra></extra>",
            )
        )
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1, "x": 0}
    height = 110 + len(methods) * max(ROW, 14 * len(rungs) + 6)
    set_axes(figure, "accuracy (%, with 95 % interval)", "", height=height, margin={"l": 10, "r": 10, "t": 30, "b": 40}, legend=legend)
    figure.update_layout(scattermode="group", scattergap=0.4)
    figure.update_xaxes(range=[-2, 102])
    figure.update_yaxes(categoryorder="array", categoryarray=methods[::-1], automargin=True, showgrid=True, tickson="boundaries")
    return figure
