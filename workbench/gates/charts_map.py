"""Every recorded step on the gate's own axes: where its best candidate stood, what the gate did, and what became of the answer."""

import pandas as pd
import plotly.graph_objects as go

from workbench.shared.charts_colours import CHOSEN, CORRECTIVE, GREY, NULL
from workbench.shared.charts_gate_axes import gate_axes, key_mark

COLOURS = {"gained": CORRECTIVE, "both right": "#009e73", "both wrong": GREY, "lost": NULL, "not graded": "#b8bcc4"}
"""Outcome of the answer -> colour: warm where steering gained, cold where it lost."""
SHAPES = {"committed": "diamond", "null": "circle"}


def step_map(table: pd.DataFrame, problem: str | None = None, m: int | None = None) -> go.Figure:
    """Scatter of :func:`workbench.gates.data.map_rows`; ``customdata`` of a point is its problem and step.

    Ringed: the decision flips. Pale: behind a flip. Crossed out in the open ring: the step that is looked at.
    """
    figure = gate_axes()
    for did, shape in SHAPES.items():
        figure.add_trace(key_mark(did, symbol=shape))
    if any(table["flips"].tolist()):
        figure.add_trace(key_mark("flips", symbol="circle-open", color=CHOSEN, line={"width": 2.5}))
    for outcome, colour in COLOURS.items():
        part = pd.DataFrame(table[table["outcome"] == outcome])
        if part.empty:
            continue
        ringed = part["flips"] & ~part["behind"]
        marker = {
            "size": [12 if did == "committed" else 9 for did in part["decision"]],
            "symbol": [SHAPES[did] for did in part["decision"]],
            "color": colour,
            "opacity": [0.3 if behind else 0.95 for behind in part["behind"]],
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
