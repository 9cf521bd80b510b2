"""Similarity of two libraries: best cosines with their baselines, and the principal angles of their spans."""

import altair as alt
import pandas as pd

from workbench.shared.charts import CORRECTIVE, GREY, vertical_rule


def match_histogram(table: pd.DataFrame, at_least: float, by_chance: float | None) -> alt.LayerChart | alt.FacetChart:
    """Histogram of :func:`workbench.compare.data.cosine_table`; solid rule: least cosine of a match, dashed: random directions."""
    names = ["same control point", "next control point"]
    bars = (
        alt.Chart(table)
        .mark_bar(opacity=0.75)
        .encode(
            x=alt.X("cosine:Q", bin=alt.Bin(extent=[-1, 1], step=0.05), title="cosine with the nearest entry of the other library"),
            y=alt.Y("count():Q", stack=None, title="entries (count)", axis=alt.Axis(tickMinStep=1)),
            color=alt.Color("against:N", scale=alt.Scale(domain=names, range=[CORRECTIVE, GREY]), title="nearest at"),
            tooltip=[alt.Tooltip("against:N", title="nearest at"), alt.Tooltip("count():Q", title="entries")],
        )
    )
    layers = [bars, vertical_rule("at", at_least, GREY).encode(tooltip=alt.value(f"a match begins at {at_least:.2f}"))]
    if by_chance is not None:
        expected = alt.value(f"random directions: {by_chance:.2f} expected")
        layers.append(vertical_rule("at", by_chance, GREY, [5, 4]).encode(tooltip=expected))
    return alt.layer(*layers).properties(height=240)


def principal_angles(table: pd.DataFrame, by_chance: float) -> alt.LayerChart | alt.FacetChart:
    """Cosines of the principal angles; dashed: the root mean square that random spans of these dimensions have."""
    dots = (
        alt.Chart(table)
        .mark_line(point=True, color=CORRECTIVE)
        .encode(
            x=alt.X("direction:Q", title="principal direction", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("cosine:Q", scale=alt.Scale(domain=[0, 1]), title="cosine of the principal angle"),
            tooltip=["direction:Q", alt.Tooltip("cosine:Q", format=".3f"), alt.Tooltip("degrees:Q", format=".1f")],
        )
    )
    level = pd.DataFrame({"at": [by_chance**0.5], "what": [f"random spans: root mean square {by_chance**0.5:.2f}"]})
    rule = alt.Chart(level).mark_rule(strokeDash=[5, 4], strokeWidth=2, color=GREY).encode(y="at:Q", tooltip="what:N")
    return alt.layer(dots, rule).properties(height=240)
