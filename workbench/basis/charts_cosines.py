"""Cosines between entries in cluster order. Altair, because plotly heatmaps do not report clicks to Streamlit."""

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import CHOSEN, DIVERGING, SEQUENTIAL

CELL = "cell"
"""Name of the point selection: fields ``i`` and ``j`` are entry ids."""


def cosine_heatmap(table: pd.DataFrame, *, full_range: bool = True, size: int = 520, chosen: str | None = None) -> alt.Chart:
    """Heatmap of :func:`workbench.basis.data.heatmap_table`.

    With ``full_range`` the colours run from -1 to 1 with 0 in the middle; without, from the smallest cosine to 1 on a sequential scale.
    Row and column of ``chosen`` are framed.
    """
    order = list(table.drop_duplicates("row").sort_values("row")["i"])
    labelled = len(order) <= 48
    axis = alt.Axis(labels=labelled, ticks=labelled, labelFontSize=9, labelAngle=-90, labelOverlap=False)
    side = alt.Axis(labels=labelled, ticks=labelled, labelFontSize=9, labelOverlap=False)
    if full_range:
        scale = alt.Scale(domain=[-1, 1], domainMid=0, range=list(DIVERGING))
    else:
        scale = alt.Scale(domain=[min(table["cosine"].tolist(), default=0.0), 1.0], scheme=SEQUENTIAL)
    cell = alt.selection_point(name=CELL, fields=["i", "j"])
    mine = alt.param(name="chosen", value=chosen or "")
    framed = "datum.i === chosen || datum.j === chosen"
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X("j:N", sort=order, title="entry, in cluster order", axis=axis),
            y=alt.Y("i:N", sort=order, title="entry, in cluster order", axis=side),
            color=alt.Color("cosine:Q", scale=scale, legend=alt.Legend(title="cosine", gradientLength=180)),
            stroke=alt.condition(framed, alt.value(CHOSEN), alt.value("transparent")),
            strokeWidth=alt.condition(framed, alt.value(0.7), alt.value(0)),
            tooltip=[
                alt.Tooltip("i:N", title="row"),
                alt.Tooltip("m_i:Q", title="row's m"),
                alt.Tooltip("j:N", title="column"),
                alt.Tooltip("m_j:Q", title="column's m"),
                alt.Tooltip("cosine:Q", format=".3f"),
            ],
        )
        .add_params(cell, mine)
        .properties(width=size, height=size)
    )
