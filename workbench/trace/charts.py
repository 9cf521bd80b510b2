"""Success rate of continuing an answer against the token it is continued from, with the answer's control points over it."""

import pandas as pd
import plotly.graph_objects as go

from workbench.shared.charts import CHOSEN, GREY, NULL, STEERED, set_axes
from workbench.trace import critical

LEGEND = {"gate acted": (STEERED, "solid", "diamond"), "gate chose null": (GREY, "dot", "diamond-open")}
"""Colour, dash and symbol of a control point; other kinds are drawn as where the gate chose null."""
_TOP = 106
"""Height of the symbols, above 100 %."""


def critical_strip(rates: pd.DataFrame, controls: pd.DataFrame, tokens: int, lost: tuple[int, int] | None, label: str) -> go.Figure:
    """Tables of :func:`workbench.trace.critical.rate_table` and ``control_table``; ``tokens``: length of the answer.

    A rate holds from its token to the next point. ``lost``: the two tokens of the largest fall, shaded and marked with ``label``.
    """
    figure = go.Figure()
    if lost is not None:
        figure.add_vrect(
            lost[0],
            lost[1],
            fillcolor=CHOSEN,
            opacity=0.16,
            line_width=0,
            layer="below",
        )
        figure.add_annotation(
            x=sum(lost) / 2, y=_TOP + 5, text=f"<b>{label}</b>", showarrow=False, yanchor="bottom", font={"color": CHOSEN, "size": 13}
        )
    parts = [(pd.DataFrame(controls[controls["fate"] == fate]), fate) for fate in dict.fromkeys(controls["fate"])]
    figure.add_traces([_lines(part, fate) for part, fate in parts])
    figure.add_traces(_band(rates, tokens))
    figure.add_traces([_signs(part, fate) for part, fate in parts])
    _along(figure, tokens, "continued from token (number of tokens kept)", "came out right (%)", height=340)
    figure.update_yaxes(range=[-3, _TOP + 18], tickvals=[0, 25, 50, 75, 100])
    return figure


def step_strip(steps: pd.DataFrame, controls: pd.DataFrame, tokens: int) -> go.Figure:
    """Tables of :func:`workbench.trace.critical.importance_table` and ``control_table``: a bar for each step, as high as the
    divergence of the answers that follow it."""
    figure, top = go.Figure(), 1.15 * max([*steps["kl"].tolist(), 0.1])
    for does, colour, pattern in ((critical.DECIDES, CHOSEN, ""), (critical.OPEN, GREY, "/")):
        part = pd.DataFrame(steps[steps["does"] == does])
        figure.add_bar(
            x=(part["start"] + part["end"]) / 2,
            y=part["kl"],
            width=0.94 * (part["end"] - part["start"]),
            name=does,
            marker={"color": colour, "pattern": {"shape": pattern, "solidity": 0.25}},
            customdata=part["hover"].tolist(),
            hovertemplate="%{customdata}<br>%{y:.2f} nats<extra></extra>",
        )
    for fate in dict.fromkeys(controls["fate"]):
        figure.add_trace(_signs(pd.DataFrame(controls[controls["fate"] == fate]), fate, top))
    _along(figure, tokens, "token of the answer", "divergence (nats)", height=300)
    figure.update_yaxes(range=[0, 1.08 * top])
    return figure


def _along(figure: go.Figure, tokens: int, x: str, y: str, *, height: int) -> None:
    """Axes of a chart along an answer of ``tokens`` tokens, with the legend above it."""
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}
    set_axes(figure, x, y, height=height, legend=legend, hovermode="closest")
    figure.update_xaxes(range=[-0.01 * tokens, 1.01 * tokens], showgrid=False)


def _band(rates: pd.DataFrame, tokens: int) -> list[go.Scatter]:
    """Interval band and rate as steps; the last one extends to the end of the answer."""
    x = [*rates["position"], tokens]
    value, low, high = ([*rates[name], rates[name].iloc[-1]] for name in ("value", "low", "high"))
    edge = {"x": x, "mode": "lines", "line": {"width": 0, "shape": "hv"}, "hoverinfo": "skip"}
    return [
        go.Scatter(y=low, showlegend=False, **edge),
        go.Scatter(y=high, name="95 % interval", fill="tonexty", fillcolor="rgba(58, 135, 200, 0.22)", **edge),
        go.Scatter(
            x=x,
            y=value,
            name="rate",
            mode="lines",
            line={"width": 2.5, "color": NULL, "shape": "hv"},
            hoverinfo="skip",
        ),
        go.Scatter(
            x=rates["position"],
            y=rates["value"],
            name="measured",
            mode="markers",
            showlegend=False,
            marker={"size": 8, "color": NULL},
            customdata=rates[["hover", "low", "high"]].values.tolist(),
            hovertemplate="from token %{x}: %{customdata[0]}<br>%{y:.0f} % [%{customdata[1]:.0f}, %{customdata[2]:.0f}]<extra></extra>",
        ),
    ]


def _lines(part: pd.DataFrame, fate: str) -> go.Scatter:
    """A vertical line at each control point."""
    colour, dash, _ = LEGEND.get(fate, LEGEND["gate chose null"])
    return go.Scatter(
        x=[x for position in part["position"] for x in (position, position, None)],
        y=[y for _ in part["position"] for y in (0, _TOP, None)],
        mode="lines",
        line={"color": colour, "dash": dash, "width": 2 if dash == "solid" else 1.5},
        legendgroup=fate,
        showlegend=False,
        hoverinfo="skip",
        name=f"{fate} (line)",
    )


def _signs(part: pd.DataFrame, fate: str, top: float = _TOP) -> go.Scatter:
    """Symbols on top of the lines, which differ without colour too; the tooltip gives the gate's reason."""
    colour, _, sign = LEGEND.get(fate, LEGEND["gate chose null"])
    return go.Scatter(
        x=part["position"],
        y=[top] * len(part),
        mode="markers",
        marker={"symbol": sign, "size": 11, "color": colour, "line": {"width": 1.5, "color": colour}},
        legendgroup=fate,
        name=fate,
        customdata=part["hover"].tolist(),
        hovertemplate="token %{x}, %{customdata}<extra></extra>",
    )
