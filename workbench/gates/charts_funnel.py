"""The gate's funnel as bars, and how many steps it steers as one setting moves."""

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import CHOSEN, GREY, STEERED


def funnel_bars(table: pd.DataFrame) -> alt.LayerChart:
    """Bars of :func:`workbench.gates.data.funnel_rows`: recorded in grey, with the settings that are tried in colour."""
    stages, whens = (list(dict.fromkeys(table[name])) for name in ("stage", "when"))
    most = max(1, *table["entries"].tolist())
    base = alt.Chart(table).encode(
        y=alt.Y("stage:N", sort=stages, title="", axis=alt.Axis(labelLimit=130, labelOverlap=False)),
        yOffset=alt.YOffset("when:N", sort=whens),
        tooltip=["stage:N", "when:N", "entries:Q"],
    )
    x = alt.X(
        "entries:Q", title="entries left (number)", scale=alt.Scale(domain=[0, 1.08 * most]), axis=alt.Axis(format="d", tickMinStep=1)
    )
    colour = alt.Color(
        "when:N", sort=whens, scale=alt.Scale(domain=whens, range=[GREY, STEERED]), legend=alt.Legend(title="", orient="top")
    )
    bars = base.mark_bar().encode(x=x, color=colour)
    counts = base.mark_text(align="left", dx=4, fontSize=11, color=GREY).encode(x=x, text="entries:Q")
    return alt.LayerChart(layer=[bars, counts]).properties(height=140 + 75 * len(whens))


def steered_share(table: pd.DataFrame, label: str, own: float, tried: float) -> alt.LayerChart:
    """Line of :func:`workbench.shared.gate_replay.curve` with its Wilson band; dashed: the run's own value, solid: the one tried."""
    x = alt.X("value:Q", title=label, scale=alt.Scale(nice=False, zero=False))
    y = alt.Y("rate:Q", title="steps steered (%)", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    tooltip = [
        alt.Tooltip("value:Q", title=label, format=".4~g"),
        alt.Tooltip("rate:Q", title="steered", format=".0%"),
        alt.Tooltip("steered:Q", title="steps steered"),
        alt.Tooltip("n:Q", title="steps known"),
        alt.Tooltip("unknown:Q", title="steps that need the model"),
    ]
    base = alt.Chart(table).encode(x=x, tooltip=tooltip)
    band = base.mark_area(color=STEERED, opacity=0.22).encode(y=alt.Y("low:Q", title=""), y2="high:Q")
    line = base.mark_line(color=STEERED, point=alt.OverlayMarkDef(color=STEERED, size=22)).encode(y=y)
    rules = [
        alt.Chart(pd.DataFrame({"value": [value]})).mark_rule(color=colour, strokeDash=dash, strokeWidth=1.5).encode(x="value:Q")
        for value, colour, dash in ((own, GREY, [5, 4]), (tried, CHOSEN, [1, 0]))
    ]
    return alt.LayerChart(layer=[band, line, *rules]).properties(height=200)
