"""What the model says next, before and after: probabilities at the control point, and divergence at the tokens behind it."""

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import GREY, NULL, STEERED, VANILLA

WAYS = ("attention free", "attention frozen")


_TOP = alt.Legend(orient="top", title=None)
_NATS = alt.Axis(format="~g", values=[0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10])
_TOKENS = alt.Axis(labelFont="monospace", labelAngle=-60, labelOverlap=False)


def shift_dumbbells(table: pd.DataFrame) -> alt.LayerChart:
    """One line a next token from :func:`workbench.actions.data.shift_table`: probability unsteered (grey) and steered (vermilion)."""
    order = list(table["token"])
    y = alt.Y(
        "token:N",
        sort=order,
        title="next token and its id",
        axis=alt.Axis(labelFont="monospace", labelLimit=150, labelOverlap=False, labelFontSize=11),
    )
    tooltip = [
        "token:N",
        alt.Tooltip("before:Q", format=".4f"),
        alt.Tooltip("after:Q", format=".4f"),
        alt.Tooltip("change:Q", format="+.4f"),
    ]
    lines = alt.Chart(table).mark_rule(strokeWidth=2, color=GREY, opacity=0.6).encode(x="before:Q", x2="after:Q", y=y, tooltip=tooltip)
    long = table.melt(["token", "change"], ["before", "after"], "arm", "probability")
    names = {"before": "unsteered", "after": "steered"}
    dots = (
        alt.Chart(long.assign(arm=[names[arm] for arm in long["arm"]]))
        .mark_point(filled=True, size=80, opacity=1)
        .encode(
            x=alt.X("probability:Q", title="probability at the control point"),
            y=y,
            color=alt.Color("arm:N", scale=alt.Scale(domain=list(names.values()), range=[VANILLA, STEERED]), legend=_TOP),
            shape=alt.Shape("arm:N", scale=alt.Scale(domain=list(names.values()), range=["circle", "triangle-right"]), legend=_TOP),
            tooltip=["token:N", "arm:N", alt.Tooltip("probability:Q", format=".4f"), alt.Tooltip("change:Q", format="+.4f")],
        )
    )
    return alt.LayerChart(layer=[lines, dots]).properties(height=24 * len(order) + 90)


def divergence_curves(table: pd.DataFrame) -> alt.Chart:
    """KL behind each token with attention free and frozen, from :func:`workbench.actions.data.divergence_table`; symlog scale."""
    tokens = list(dict.fromkeys(table["token"]))
    return (
        alt.Chart(table)
        .mark_line(point=alt.OverlayMarkDef(size=50, filled=True))
        .encode(
            x=alt.X("token:N", sort=tokens, title="behind token (0 is the control point)", axis=_TOKENS),
            y=alt.Y("kl:Q", title="KL(steered || unsteered), nats", scale=alt.Scale(type="symlog", constant=1e-3), axis=_NATS),
            color=alt.Color("way:N", scale=alt.Scale(domain=list(WAYS), range=[STEERED, NULL]), legend=_TOP),
            strokeDash=alt.StrokeDash("way:N", scale=alt.Scale(domain=list(WAYS), range=[[1, 0], [5, 3]]), legend=_TOP),
            tooltip=["token:N", "way:N", alt.Tooltip("kl:Q", title="KL (nats)", format=".6f")],
        )
        .properties(height=330)
    )
