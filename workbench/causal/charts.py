"""The gate's predictions against measured effects: bins, ROC curves, and all candidates on the gate's axes."""

import pandas as pd
import plotly.graph_objects as go

from workbench.shared.charts import CHOSEN, DIVERGING, GREY, STEERED, categorical, gate_axes, key_mark, reach, set_axes, symmetric

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def calibration_chart(table: pd.DataFrame) -> go.Figure:
    """Bins of :func:`workbench.causal.data.calibration_table`: mean margin against mean measured advantage."""
    figure = go.Figure()
    figure.add_hline(0, line_color=GREY, line_width=1, line_dash="dot")
    across = reach(table["predicted"], table["margin low"], table["margin high"], thickness=1, width=0, color=GREY)
    up = reach(table["value"], table["low"], table["high"], thickness=1.8, width=4, color=STEERED)
    figure.add_trace(
        go.Scatter(
            x=table["predicted"],
            y=table["value"],
            error_x=across,
            error_y=up,
            mode="markers+lines",
            line={"width": 1, "color": STEERED, "dash": "dot"},
            marker={"size": 10, "color": STEERED},
            customdata=table[["margin low", "margin high", "shown", "points"]].values.tolist(),
            hovertemplate="margin %{x:+.3f} (%{customdata[0]:+.3f} to %{customdata[1]:+.3f})<br>advantage %{customdata[2]}"
            "<br>%{customdata[3]} candidates<extra></extra>",
            showlegend=False,
        )
    )
    set_axes(figure, "predicted margin (score minus null score)", "measured advantage (share of right answers)", height=360)
    return figure


def roc(table: pd.DataFrame) -> go.Figure:
    """Curves of :func:`workbench.causal.data.roc_table` with their areas in the legend, and the diagonal of chance."""
    figure = go.Figure()
    chance = {"color": GREY, "width": 1, "dash": "dot"}
    figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line=chance, name="chance (0.50)", hoverinfo="skip"))
    names = list(dict.fromkeys(table["predictor"]))
    for i, (name, colour) in enumerate(zip(names, categorical(len(names)), strict=True)):
        part = table[table["predictor"] == name]
        figure.add_trace(
            go.Scatter(
                x=part["false"],
                y=part["true"],
                mode="lines",
                line={"color": colour, "width": 2, "dash": DASHES[i % len(DASHES)]},
                name=f"{name} ({part['auc'].tolist()[0]:.2f})",
                hovertemplate=f"{name}<br>harms taken %{{x:.0%}}, helps taken %{{y:.0%}}<extra></extra>",
            )
        )
    x, y = "harmful candidates above threshold (share)", "helpful candidates above threshold (share)"
    set_axes(figure, x, y, legend_title_text="predictor (area)", height=360, xaxis_range=[-0.02, 1.02], yaxis_range=[-0.02, 1.02])
    return figure


def advantage_map(table: pd.DataFrame, chosen: str | None = None) -> go.Figure:
    """Candidates of :func:`workbench.causal.data.point_table` with a preview gain; the gate commits above the line.

    ``customdata[0]`` of a point is its entry id; points of the entry ``chosen`` are framed.
    """
    low, high = symmetric(list(table["advantage"]), floor=0.01)
    scale = [[i / (len(DIVERGING) - 1), colour] for i, colour in enumerate(DIVERGING)]
    figure = gate_axes()
    for fate, shape, size in (("not chosen", "circle", 9), ("chosen", "diamond", 13)):
        part = pd.DataFrame(table[table["fate"] == fate])
        figure.add_trace(key_mark(f"{fate} by the gate", symbol=shape))  # the points have many colours, so the legend gets a grey mark
        frames = [CHOSEN if entry == chosen else GREY for entry in part["entry"]]
        widths = [2.5 if entry == chosen else 1 for entry in part["entry"]]
        figure.add_trace(
            go.Scatter(
                x=part["gain"],
                y=part["margin"],
                mode="markers",
                showlegend=False,
                marker={
                    "symbol": shape,
                    "size": size,
                    "color": part["advantage"],
                    "coloraxis": "coloraxis",
                    "line": {"width": widths, "color": frames},
                },
                customdata=part[["entry", "problem", "m", "advantage", "pairs", "tokens"]].values.tolist(),
                hovertemplate="<b>%{customdata[0]}</b>  m %{customdata[2]}<br>advantage %{customdata[3]:+.3f} (%{customdata[4]} pairs), "
                "tokens %{customdata[5]:+.1f}<br>gain %{x:+.3f}, margin %{y:+.3f}<extra></extra>",
            )
        )
    figure.update_layout(
        coloraxis={
            "colorscale": scale,
            "cmin": low,
            "cmax": high,
            "colorbar": {"title": {"text": "advantage"}, "thickness": 12, "outlinewidth": 0},
        },
        uirevision="margin map",
    )
    return figure
