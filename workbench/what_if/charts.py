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
    return alt.LayerChart(layer=[leaving, runs, text, steps]).properties(height=max(150, 52 * lanes + 90))


KINDS = {"all right": "#009e73", "some right": "#0072b2", "all wrong": "#d55e00", "not graded": GREY}
"""Colour of a node of rerolls; its count tells it too."""


def reroll_chart(nodes: pd.DataFrame) -> alt.LayerChart:
    """The tree of :func:`workbench.what_if.rerolls.node_lines`: a line for each run of shared steps, thicker with more rerolls."""
    lanes, last = max(nodes["lane"].tolist()), max(nodes["end"].tolist())
    first = min(nodes["from"].tolist())
    points = [number for number in range(int(last) + 1) if number >= first]
    x_scale = alt.Scale(domain=[first - 0.3, last + 1.2], nice=False)
    axis = alt.Axis(values=points, format="d", grid=False)
    y_scale = alt.Scale(domain=[-0.7, lanes + 0.7], reverse=True, nice=False)
    colour = alt.Color(
        "kind:N", scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())), legend=alt.Legend(title=None, orient="top")
    )
    most = alt.Scale(domain=[1, max(2, *nodes["rerolls"].tolist())], range=[2, 9])
    thick = alt.StrokeWidth("rerolls:Q", scale=most, legend=None)
    tooltip = ["count:N", "seeds:N", "steps:N", "final:N"]
    base = alt.Chart(nodes)
    y = alt.Y("lane:Q", scale=y_scale, axis=None)
    leaving = base.mark_rule(color=GREY, strokeWidth=1.2).encode(
        x=alt.X("from:Q", scale=x_scale, title="control point m", axis=axis),
        x2="begin:Q",
        y=alt.Y("from lane:Q", scale=y_scale, axis=None),
        y2="lane:Q",
    )
    runs = base.mark_rule(strokeCap="round").encode(x=alt.X("begin:Q"), x2="end:Q", y=y, color=colour, strokeWidth=thick, tooltip=tooltip)
    marks = base.mark_point(filled=True, size=90, opacity=1).encode(x=alt.X("begin:Q"), y=y, color=colour, tooltip=tooltip)
    counts = base.mark_text(dy=-12, fontSize=12, color=GREY).encode(x=alt.X("begin:Q"), y=y, text="count:N")
    finals = base.mark_text(align="left", dx=9, fontSize=12, color=GREY).encode(x=alt.X("end:Q"), y=y, text="final:N")
    return alt.LayerChart(layer=[leaving, runs, marks, counts, finals]).properties(height=int(max(120, 44 * (lanes + 1) + 80)))
