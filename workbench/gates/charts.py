"""Charts of the gate: the share of steered steps, the margin map, and the share of answers with a commit at each control point."""

import altair as alt
import pandas as pd
import plotly.graph_objects as go

from workbench.shared.charts import CHOSEN, CORRECTIVE, GREY, NULL, STEERED, gate_axes, key_mark, vertical_rule


def steered_share(table: pd.DataFrame, label: str, own: float, tried: float) -> alt.LayerChart:
    """Share of steered steps, from :func:`workbench.shared.gate_replay.curve`, with its Wilson band.

    Args:
        own: the run's own value, marked by a dashed line.
        tried: the value that is tried, marked by a solid line.
    """
    x = alt.X("value:Q", title=label, scale=alt.Scale(nice=False, zero=False))
    y = alt.Y("rate:Q", title="steps steered (%)", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    tooltip = [
        alt.Tooltip("value:Q", title=label, format=".4~g"),
        alt.Tooltip("rate:Q", title="steered", format=".0%"),
        alt.Tooltip("steered:Q", title="steps steered"),
        alt.Tooltip("n:Q", title="steps known"),
        alt.Tooltip("unknown:Q", title="steps that need the model"),
    ]
    base = alt.Chart(table).encode(x=x, tooltip=tooltip)
    band = base.mark_area(color=STEERED, opacity=0.22).encode(y=alt.Y("low:Q", title=""), y2="high:Q")
    line = base.mark_line(color=STEERED, point=alt.OverlayMarkDef(color=STEERED, size=22)).encode(y=y)
    rules = [vertical_rule("value", own, GREY, [5, 4]), vertical_rule("value", tried, CHOSEN)]
    return alt.LayerChart(layer=[band, line, *rules]).properties(height=200)


COLOURS = {"gained": CORRECTIVE, "both right": "#009e73", "both wrong": GREY, "lost": NULL, "not graded": "#b8bcc4"}
"""Colour of an answer's outcome: warm if steering gained it, cold if steering lost it."""
SHAPES = {"committed": "diamond", "null": "circle"}


def step_map(table: pd.DataFrame, problem: str | None = None, m: int | None = None) -> go.Figure:
    """Scatter of :func:`workbench.gates.data.map_rows`; the ``customdata`` of a point begins with its problem and control point.

    Ring: the decision flips. Pale: after a flip. Large ring: the step that is chosen (``problem``, ``m``).
    """
    figure = gate_axes()
    for decision, shape in SHAPES.items():
        figure.add_trace(key_mark(decision, symbol=shape))
    if any(table["flips"].tolist()):
        figure.add_trace(key_mark("flips", symbol="circle-open", color=CHOSEN, line={"width": 2.5}))
    for outcome, colour in COLOURS.items():
        part = pd.DataFrame(table[table["outcome"] == outcome])
        if part.empty:
            continue
        ringed = part["flips"] & ~part["diverged"]
        marker = {
            "size": [12 if decision == "committed" else 9 for decision in part["decision"]],
            "symbol": [SHAPES[decision] for decision in part["decision"]],
            "color": colour,
            "opacity": [0.3 if diverged else 0.95 for diverged in part["diverged"]],
            "line": {"width": [2.5 if ring else 0 for ring in ringed], "color": CHOSEN},
        }
        figure.add_trace(_points(part, outcome, marker))
    here = table[(table["problem"] == problem) & (table["m"] == m)]
    if len(here):
        ring = {"size": 22, "symbol": "circle-open", "color": CHOSEN, "line": {"width": 1.5}}
        figure.add_trace(go.Scatter(x=here["gain"], y=here["margin"], mode="markers", marker=ring, hoverinfo="skip", showlegend=False))
    figure.update_layout(uirevision="step map", height=400)
    return figure


def _points(part: pd.DataFrame, outcome: str, marker: dict[str, object]) -> go.Scatter:
    return go.Scatter(
        x=part["gain"],
        y=part["margin"],
        mode="markers",
        name=f"{outcome} ({part['problem'].nunique()} answers)",
        customdata=part[["problem", "m", "entry", "decision", "change", "outcome"]].values.tolist(),
        hovertemplate="<b>%{customdata[0]}</b> m %{customdata[1]}: %{customdata[3]} (%{customdata[4]})<br>best %{customdata[2]}, "
        "gain %{x:+.3f}, margin %{y:+.3f}<br>answer: %{customdata[5]}<extra></extra>",
        marker=marker,
    )


def firing_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Share of answers with a commit at each control point, with Wilson 95 % intervals; table of ``gate_evidence.firing_rates``."""
    x = alt.X("m:O", title="control point m", axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(domain=[0, 1])
    tooltip = [
        "m:O",
        alt.Tooltip("fired:Q", title="committed"),
        alt.Tooltip("n:Q", title="answers that reached it"),
        alt.Tooltip("rate:Q", format=".0%"),
    ]
    base = alt.Chart(table).encode(x=x, tooltip=tooltip)
    bars = base.mark_bar(color=STEERED, opacity=0.75).encode(
        y=alt.Y("rate:Q", scale=scale, axis=alt.Axis(format="%"), title="answers with a commit (%)")
    )
    spans = base.mark_rule(color=GREY, strokeWidth=2).encode(y=alt.Y("low:Q", scale=scale, title=""), y2="high:Q")
    counts = base.mark_text(dy=-7, align="center", fontSize=10, color=GREY).encode(
        y=alt.Y("high:Q", title=""), text=alt.Text("n:Q", format="d")
    )
    return alt.LayerChart(layer=[bars, spans, counts]).properties(height=230)
