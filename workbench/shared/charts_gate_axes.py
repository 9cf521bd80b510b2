"""The gate's own two axes: preview gain across, score minus null score up. Shared by the maps that draw candidates on them."""

from typing import Any

import plotly.graph_objects as go

from workbench.shared.charts_colours import GREY


def gate_axes() -> go.Figure:
    """An empty map: the gate commits above the dashed line, and previews beat doing nothing to the right of the dotted one."""
    figure = go.Figure()
    figure.add_hline(
        0, line_color=GREY, line_width=1.5, line_dash="dash", annotation_text="null score: commit above", annotation_font_color=GREY
    )
    figure.add_vline(0, line_color=GREY, line_width=1, line_dash="dot")
    figure.update_layout(
        xaxis_title="preview gain (P_i − P_null, nats a token)",
        yaxis_title="margin (score minus null score)",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1, "x": 0},
        height=430,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        clickmode="event+select",
        dragmode="pan",
    )
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(zeroline=False)
    return figure


def key_mark(name: str, **marker: Any) -> go.Scatter:
    """A line of the legend that stands for no point."""
    return go.Scatter(x=[None], y=[None], mode="markers", name=name, marker={"size": 10, "color": GREY} | marker)
