"""Where the gate stood: score minus null score of every previewed candidate at every step, and how often it fired."""

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import CHOSEN, DIVERGING, STEERED, symmetric

CELL = "gate_cell"
"""Name of the point selection: fields ``m`` and ``entry``."""


def margin_heatmap(table: pd.DataFrame, n_steps: int) -> alt.Chart:
    """Control point by candidate, of :func:`workbench.shared.gate_evidence.margin_table`; committed cells framed, behind a flip pale."""
    low, high = symmetric(list(table["margin"]), floor=0.01)
    entries = list(dict.fromkeys(table.sort_values("m")["entry"]))
    tooltip = [
        "m:O",
        "entry:N",
        *[alt.Tooltip(f"{name}:Q", format=".3f") for name in ("cosine", "value", "gain", "score", "margin")],
        "committed:N",
    ]
    cell = alt.selection_point(name=CELL, fields=["m", "entry"])
    steps = alt.Scale(domain=list(range(n_steps)), paddingInner=0.01)
    return (
        alt.Chart(table)
        .mark_rect(stroke=CHOSEN)
        .encode(
            x=alt.X("m:O", title="control point m", scale=steps, axis=alt.Axis(labelAngle=0)),
            y=alt.Y(
                "entry:N", sort=entries, title="candidate (entry)", scale=alt.Scale(paddingInner=0.15), axis=alt.Axis(labelOverlap=False)
            ),
            color=alt.Color(
                "margin:Q",
                scale=alt.Scale(domain=[low, high], domainMid=0, range=list(DIVERGING)),
                legend=alt.Legend(title="score - null", format=".2f"),
            ),
            strokeWidth=alt.condition("datum.committed", alt.value(2.5), alt.value(0)),
            opacity=alt.condition("datum.behind", alt.value(0.35), alt.value(1)),
            tooltip=tooltip,
        )
        .add_params(cell)
        .properties(height=max(140, 22 * len(entries) + 50))
    )


def firing_chart(table: pd.DataFrame) -> alt.LayerChart:
    """Share of answers in which the gate committed at each control point, with Wilson 95 % intervals."""
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
    spans = base.mark_rule(color="#8a8f98", strokeWidth=2).encode(y=alt.Y("low:Q", scale=scale, title=""), y2="high:Q")
    counts = base.mark_text(dy=-7, align="center", fontSize=10, color="#8a8f98").encode(
        y=alt.Y("high:Q", title=""), text=alt.Text("n:Q", format="d")
    )
    return alt.LayerChart(layer=[bars, spans, counts]).properties(height=230)
