"""Charts of evaluations: accuracy against cost, and transfer between tasks."""

import altair as alt
import pandas as pd
import plotly.graph_objects as go

from workbench.shared.charts import DIVERGING, GREY, around, categorical, reach, set_axes, symmetric

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "hexagon", "x", "pentagon", "bowtie")
"""Marker of each method. Eleven shapes and ten colours: a pair of both repeats only after 110 methods."""


def pareto(table: pd.DataFrame, title: str) -> go.Figure:
    """Accuracy against cost, from :func:`workbench.evaluate.data.pareto_table`; ``title`` names the cost and its unit."""
    figure = go.Figure()
    front = pd.DataFrame(table[table["front"]]).sort_values("cost")
    figure.add_trace(
        go.Scatter(
            x=front["cost"],
            y=front["accuracy"],
            mode="lines",
            line={"shape": "hv", "color": GREY, "dash": "dot", "width": 1.5},
            name="Pareto front",
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
                customdata=[[name, row["shown"]]],
                hovertemplate="<b>%{customdata[0]}</b><br>accuracy %{customdata[1]}<br>cost %{x:,.4g}<extra></extra>",
                marker={"size": 12, "color": colour, "symbol": SYMBOLS[i % len(SYMBOLS)], "line": {"width": 0}},
            )
        )
    span = around(table["low"], table["high"])
    set_axes(figure, title, "accuracy (%, with 95 % interval)", height=400, xaxis_rangemode="tozero", yaxis_range=span)
    return figure


def transfer_heatmap(table: pd.DataFrame) -> alt.LayerChart:
    """Heatmap of :func:`workbench.evaluate.data.transfer_table`; a cell is framed if the run was mined on the task."""
    low, high = symmetric(list(table["difference"]), floor=1.0)
    runs = list(dict.fromkeys(table["run"]))
    tooltip = [
        alt.Tooltip("run:N", title="run (mined task)"),
        alt.Tooltip("task:N", title="evaluated on"),
        alt.Tooltip("label:N"),
        alt.Tooltip("split:N"),
        alt.Tooltip("method:N"),
        alt.Tooltip("against:N"),
        alt.Tooltip("n:Q", title="problems"),
        alt.Tooltip("difference:Q", title="difference (points)", format="+.1f"),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("p:Q", format=".3f"),
        alt.Tooltip("p_holm:Q", title="p (Holm)", format=".3f"),
        alt.Tooltip("note:N", title="caution"),
    ]
    base = alt.Chart(table).encode(
        x=alt.X("task:N", title="evaluated on (task)", axis=alt.Axis(labelAngle=0, orient="top"), scale=alt.Scale(paddingInner=0.04)),
        y=alt.Y("run:N", sort=runs, title="run (task it was mined on)", axis=alt.Axis(labelLimit=260), scale=alt.Scale(paddingInner=0.08)),
        tooltip=tooltip,
    )
    cells = base.mark_rect(stroke=GREY).encode(
        color=alt.Color(
            "difference:Q",
            scale=alt.Scale(domain=[low, high], domainMid=0, range=list(DIVERGING)),
            legend=alt.Legend(title=["stir minus", "baseline", "(points)"], format="+.0f", gradientLength=70),
        ),
        strokeWidth=alt.condition("datum.own", alt.value(2.5), alt.value(0)),
    )
    far = f"abs(datum.difference) > {0.8 * high}"
    text = base.mark_text(fontSize=12).encode(
        text=alt.Text("shown:N"), color=alt.condition(far, alt.value("#ffffff"), alt.value("#1f2933"))
    )
    return alt.LayerChart(layer=[cells, text]).properties(height=130 + 44 * len(runs))
