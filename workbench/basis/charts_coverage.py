"""What selection kept: entries by control point."""

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import CORRECTIVE, NULL


def counts_by_step(table: pd.DataFrame) -> alt.Chart:
    """Stacked bars of :func:`workbench.basis.data.counts_by_step`: selected solid, dropped faint."""
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("m:O", title="control point m (finished steps)", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("sum(entries):Q", title="entries (count)", axis=alt.Axis(tickMinStep=1)),
            color=alt.Color("kind:N", scale=alt.Scale(domain=["corrective", "null"], range=[CORRECTIVE, NULL]), title="kind"),
            opacity=alt.Opacity("fate:N", scale=alt.Scale(domain=["selected", "dropped"], range=[1.0, 0.35]), title="fate"),
            order=alt.Order("fate:N", sort="descending"),
            tooltip=["m:O", "kind:N", "fate:N", alt.Tooltip("entries:Q", title="entries")],
        )
        .properties(height=260)
    )
