"""Accuracy against cost: one mark a method with its interval, and the front that no other method beats at both."""

import pandas as pd
import plotly.graph_objects as go

from workbench.shared.charts_colours import GREY, categorical
from workbench.shared.charts_intervals import reach

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "hexagon", "x", "pentagon", "bowtie")
"""A shape a method beside its colour; of another number than the colours, so that both repeat together only after a hundred methods."""


def pareto(table: pd.DataFrame, title: str) -> go.Figure:
    """Scatter of :func:`workbench.evaluate.data.pareto_table`; ``title`` names the cost and its unit."""
    figure = go.Figure()
    front = pd.DataFrame(table[table["front"]]).sort_values("cost")
    figure.add_trace(
        go.Scatter(
            x=front["cost"],
            y=front["accuracy"],
            mode="lines",
            line={"shape": "hv", "color": GREY, "dash": "dot", "width": 1.5},
            name="not beaten at both",
            hoverinfo="skip",
        )
    )
    for i, (row, colour) in enumerate(zip(table.to_dict("records"), categorical(len(table)), strict=True)):
        name = str(row["method"])
        bars = reach([row["accuracy"]], [row["low"]], [row["high"]], thickness=1.3, width=4, color=colour)
        figure.add_trace(
            go.Scatter(
                x=[row["cost"]],
                y=[row["accuracy"]],
                error_y=bars,
                mode="markers",
                name=name,
                customdata=[[name, row["low"], row["high"]]],
                hovertemplate="<b>%{customdata[0]}</b><br>accuracy %{y:.1f} % [%{customdata[1]:.1f}, %{customdata[2]:.1f}]"
                "<br>cost %{x:,.4g}<extra></extra>",
                marker={"size": 12, "color": colour, "symbol": SYMBOLS[i % len(SYMBOLS)], "line": {"width": 0}},
            )
        )
    figure.update_layout(
        xaxis_title=title,
        yaxis_title="accuracy (%, with 95 % interval)",
        height=400,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
    )
    figure.update_xaxes(rangemode="tozero", zeroline=False)
    figure.update_yaxes(range=[-3, 103], zeroline=False)
    return figure
