"""Charts of a codebook: error over the number of codes, use of one code by control point, and the codes of a problem's rollouts."""

import altair as alt
import pandas as pd
import plotly.graph_objects as go

from workbench.shared.charts import CHOSEN, CONTROL_POINTS, GREY, categorical, reach, set_axes
from workbench.shared.codes import code_colour

SEQUENCE = "codes_sequence"
"""Name of the point selection: field ``answer``."""


def rate_chart(table: pd.DataFrame) -> go.Figure:
    """Rows of :func:`workbench.codebook.data.error_table`: curves over K as lines, fits at the codebook's own size as single marks."""
    figure = go.Figure()
    names = list(dict.fromkeys(table["method"]))
    for name, colour, symbol in zip(
        names, categorical(len(names)), ("circle", "diamond", "square", "x", "cross", "star") * 2, strict=False
    ):
        part = pd.DataFrame(table[table["method"] == name])
        curve = bool(part["curve"].tolist()[0])
        figure.add_trace(
            go.Scatter(
                x=part["codes"],
                y=part["error"],
                error_y=reach(part["error"], part["low"], part["high"], thickness=1.2, width=3, color=colour),
                mode="lines+markers" if curve else "markers",
                name=name,
                line={"color": colour, "width": 2},
                marker={"size": 8 if curve else 12, "color": colour, "symbol": "circle" if curve else symbol},
                hovertemplate=f"{name}<br>%{{x}} codes, error %{{y:.3f}}<extra></extra>",
            )
        )
    figure.add_hline(1, line_color=GREY, line_width=1, line_dash="dot", annotation_text="as good as the mean", annotation_font_color=GREY)
    set_axes(
        figure, "codes K", "held-out error (share of variance)", height=340, legend={"orientation": "h", "yanchor": "bottom", "y": 1.02}
    )
    ticks = sorted({int(each) for each in table["codes"]})
    figure.update_xaxes(type="log", tickmode="array", tickvals=ticks, ticktext=[str(each) for each in ticks])
    figure.update_yaxes(rangemode="tozero")
    return figure


def point_bars(table: pd.DataFrame, code: int) -> alt.LayerChart:
    """Rows of :func:`workbench.codebook.data.use_table`: the share of a control point's steps that have the code, with intervals."""
    tooltip = ["m:O", "steps:Q", "of:Q", alt.Tooltip("share:Q", format=".0%")]
    base = alt.Chart(table).encode(x=CONTROL_POINTS, tooltip=tooltip)
    bars = base.mark_bar(color=code_colour(code)).encode(
        y=alt.Y("share:Q", title="share of steps there", axis=alt.Axis(format="%"), scale=alt.Scale(domainMin=0))
    )
    whiskers = base.mark_rule(color=GREY, strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
    return alt.LayerChart(layer=[bars, whiskers]).properties(height=220)


def sequence_chart(table: pd.DataFrame, chosen: str) -> alt.LayerChart:
    """Rows of :func:`workbench.codebook.data.sequence_table`: one line a rollout, one labelled cell a step; the chosen answer framed."""
    codes = sorted(set(table["code"]), key=int)
    picked = alt.selection_point(name=SEQUENCE, fields=["answer"])
    base = alt.Chart(table.assign(chosen=table["answer"] == chosen)).encode(
        x=alt.X("m:O", title="step", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("rollout:N", title="rollout", sort=list(dict.fromkeys(table["rollout"]))),
        tooltip=["rollout:N", "m:O", "code:N", "text:N"],
    )
    cells = base.mark_rect(stroke=CHOSEN, cornerRadius=3).encode(
        color=alt.Color("code:N", scale=alt.Scale(domain=codes, range=[code_colour(int(code)) for code in codes]), legend=None),
        strokeWidth=alt.condition("datum.chosen", alt.value(2.5), alt.value(0)),
    )
    labels = base.mark_text(color="#111", fontWeight=600).encode(text="code:N")
    lines = len(set(table["rollout"]))
    return alt.LayerChart(layer=[cells.add_params(picked), labels]).properties(height=28 * lines + 50)
