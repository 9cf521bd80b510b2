"""Libraries side by side: entries at every control point."""

import altair as alt
import pandas as pd

from workbench.shared.charts import CORRECTIVE, NULL


def library_steps(table: pd.DataFrame) -> alt.Chart:
    """Bars of :func:`workbench.shared.curation_table.steps_table`, one group a control point; the second library is solid."""
    names = list(dict.fromkeys(table["library"]))
    opacity = alt.Scale(domain=names, range=[0.4, 1.0][-len(names) :] if len(names) < 3 else [0.4, 0.7, 1.0])
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("m:O", title="control point m (finished steps)", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("library:N", sort=names),
            y=alt.Y("sum(entries):Q", title="entries (count)", axis=alt.Axis(tickMinStep=1)),
            color=alt.Color("kind:N", scale=alt.Scale(domain=["corrective", "null"], range=[CORRECTIVE, NULL]), title="kind"),
            opacity=alt.Opacity("library:N", scale=opacity, title="library", sort=names),
            tooltip=["library:N", "m:O", "kind:N", alt.Tooltip("entries:Q", title="entries")],
        )
        .properties(height=220)
    )
