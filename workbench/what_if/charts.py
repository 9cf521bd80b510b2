"""A tree of what-if branches over the answer's steps: a lane for each node, which leaves its parent's lane at the changed step."""

import altair as alt
import pandas as pd

from workbench.shared.charts import GREY

NODE = "branch"
"""Name of the point selection: field ``branch``."""
VERDICTS = {"right": ("#009e73", "circle"), "wrong": ("#d55e00", "square"), "not graded": (GREY, "diamond")}
"""Colour and shape of an answer's verdict; the shape alone tells it too."""


def branch_tree(lines: pd.DataFrame) -> alt.LayerChart:
    """The tree of :func:`workbench.what_if.data.tree_lines`; a filled mark is a steered step."""
    nodes = lines.drop_duplicates("branch").assign(before=lambda rows: rows["begin"] - 0.7)
    names = list(VERDICTS)
    colours = alt.Scale(domain=names, range=[VERDICTS[name][0] for name in names])
    colour = alt.Color("verdict:N", scale=colours, legend=alt.Legend(title=None, orient="top"))
    shape = alt.Shape("verdict:N", scale=alt.Scale(domain=names, range=[VERDICTS[name][1] for name in names]), legend=None)
    last = max(lines["m"].tolist())
    lanes = max(lines["lane"].tolist()) + 1
    x = alt.X(
        "m:Q",
        title="control point m",
        scale=alt.Scale(domain=[-0.8, last + 0.9], nice=False),
        axis=alt.Axis(values=list(range(last + 1)), format="d", grid=False),
    )
    y = alt.Y("lane:Q", scale=alt.Scale(domain=[-0.6, lanes - 0.5], reverse=True, nice=False), axis=None)
    tooltip = ["name:N", "m:Q", "decision:N", "verdict:N", alt.Tooltip("tokens:Q", title="tokens of the answer")]
    base = alt.Chart(nodes)
    leaving = base.mark_rule(color=GREY, strokeWidth=1.5).encode(
        x=alt.X("before:Q"), x2="begin:Q", y=alt.Y("from:Q", axis=None), y2="lane:Q"
    )  # an axis here and none in the other layers breaks Vega
    runs = base.mark_rule(strokeWidth=2.5).encode(x=alt.X("begin:Q"), x2="last:Q", y=y, color=colour)
    text = base.mark_text(align="left", dx=-4, dy=-13, fontSize=11, color=GREY).encode(x=alt.X("begin:Q"), y=y, text="name:N")
    point = alt.selection_point(name=NODE, fields=["branch"])
    steps = (
        alt.Chart(lines)
        .mark_point(size=110, strokeWidth=2)
        .encode(
            x=x,
            y=y,
            stroke=alt.Stroke("verdict:N", scale=colours, legend=None),
            fill=alt.Fill("verdict:N", scale=colours, legend=None),
            shape=shape,
            fillOpacity=alt.condition("datum.committed", alt.value(1), alt.value(0)),
            tooltip=tooltip,
        )
        .add_params(point)
    )
    return alt.LayerChart(layer=[leaving, runs, text, steps]).properties(height=max(120, 44 * lanes + 70))
