"""What decides a step: every candidate's margin over null as the sum of what retrieval and what the preview say."""

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import CHOSEN, CORRECTIVE, GREY, NULL

_COLOURS = (CORRECTIVE, NULL)


def margin_terms(table: pd.DataFrame, least: float = 0.0) -> alt.LayerChart:
    """Stacked terms of :func:`workbench.gates.data.term_rows` about 0, a tick at their sum; dashed: the margin to be exceeded.

    Args:
        least: what a margin must exceed to be committed; above 0 where ``tau_null`` lies above the null score.
    """
    names, terms = (list(dict.fromkeys(table[name])) for name in ("candidate", "term"))
    y = alt.Y("candidate:N", sort=names, title="candidate (entry)", axis=alt.Axis(labelOverlap=False))
    numbers = ["amount", "margin", "beta value", "rho gain", "null score", "score"]
    tooltip = ["candidate:N", "fate:N", "term:N", *(alt.Tooltip(f"{name}:Q", format="+.3f") for name in numbers)]
    base = alt.Chart(table).encode(y=y, tooltip=tooltip)
    bars = base.mark_bar(size=13).encode(
        x=alt.X("amount:Q", stack="zero", title="margin (score minus null score)"),
        color=alt.Color(
            "term:N", scale=alt.Scale(domain=terms, range=list(_COLOURS[: len(terms)])), legend=alt.Legend(title="", orient="top")
        ),
    )
    sums = base.mark_tick(color=CHOSEN, thickness=4, size=22).encode(x="margin:Q")
    line = pd.DataFrame({"at": [least]})
    rule = (
        alt.Chart(line)
        .mark_rule(strokeDash=[5, 4], strokeWidth=1.5, color=GREY)
        .encode(x="at:Q", tooltip=[alt.Tooltip("at:Q", title="to exceed")])
    )
    return alt.LayerChart(layer=[bars, sums, rule]).properties(height=130 + 34 * len(names))
