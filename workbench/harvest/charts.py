"""A job's stages on a time axis, one bar each."""

import altair as alt
import pandas as pd

from workbench.shared.charts import CORRECTIVE, NULL

ROW = 24
"""Pixels for each stage."""


def stage_timeline(table: pd.DataFrame) -> alt.Chart:
    """One bar for each stage of :func:`workbench.harvest.data.timeline`, from its start to its end; the stage still going is vermilion."""
    order = list(table["stage"])
    state = ["going" if going else "done" for going in table["going"]]
    tips = [alt.Tooltip("stage:N"), alt.Tooltip("made:N"), alt.Tooltip("seconds:Q", format=".1f"), alt.Tooltip("tokens:Q")]
    return (
        alt.Chart(table.assign(state=state))
        .mark_bar(height=12, cornerRadius=2)
        .encode(
            x=alt.X("start:Q", title="seconds since the start", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=6)),
            x2="end:Q",
            y=alt.Y("stage:N", sort=order, title=None, axis=alt.Axis(ticks=False, labelOverlap=False)),
            color=alt.Color("state:N", scale=alt.Scale(domain=["done", "going"], range=[NULL, CORRECTIVE]), legend=None),
            tooltip=tips,
        )
        .properties(height=alt.Step(ROW))
    )
