"""What selection kept: entries by control point, and the gain of each pick."""

import altair as alt
import pandas as pd

from workbench.figures.colours import CORRECTIVE, NULL


def counts_by_step(table: pd.DataFrame) -> alt.Chart:
    """Stacked bars of :func:`workbench.services.basis_geometry.counts_by_step`: selected solid, dropped faint."""
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


def pick_gains(table: pd.DataFrame) -> alt.LayerChart:
    """Marginal gain of the objective at each pick; picks without one (forced in) are ticks at the foot."""
    base = alt.Chart(table).encode(x=alt.X("pick:Q", title="pick (order of selection)", axis=alt.Axis(tickMinStep=1, format="d")))
    tooltip = [
        "pick:Q",
        "entry:N",
        "m:O",
        "kind:N",
        alt.Tooltip("quality:Q", format=".3f"),
        alt.Tooltip("gain:Q", format=".3f"),
        "forced:N",
    ]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=["corrective", "null"], range=[CORRECTIVE, NULL]), title="kind")
    shape = alt.Shape("forced:N", scale=alt.Scale(domain=[False, True], range=["circle", "square"]), title="forced in")
    line = base.mark_line(color="#8a8f98", strokeWidth=1).encode(y=alt.Y("gain:Q", title="marginal gain (objective)"))
    points = base.mark_point(filled=True, size=55).encode(y="gain:Q", color=colour, shape=shape, tooltip=tooltip)
    forced = (
        base.transform_filter("!isValid(datum.gain)")
        .mark_tick(thickness=2, height=9)
        .encode(y=alt.value("height"), color=colour, tooltip=tooltip)
    )
    return alt.LayerChart(layer=[line, points, forced]).properties(height=260)
