"""Transfer: rows are runs, columns the tasks they were evaluated on, a cell the paired difference. Diverging about 0."""

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import DIVERGING, GREY, symmetric


def transfer_heatmap(table: pd.DataFrame) -> alt.LayerChart:
    """Heatmap of :func:`workbench.evaluate.transfer.transfer_table`; framed where run and evaluation share their task."""
    low, high = symmetric(list(table["difference"]), floor=1.0)
    runs = list(dict.fromkeys(table["run"]))
    tooltip = [
        alt.Tooltip("run:N", title="run (mined task)"),
        alt.Tooltip("task:N", title="evaluated on"),
        alt.Tooltip("label:N"),
        alt.Tooltip("split:N"),
        alt.Tooltip("method:N"),
        alt.Tooltip("against:N"),
        alt.Tooltip("n:Q", title="problems"),
        alt.Tooltip("difference:Q", title="difference (points)", format="+.1f"),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("p:Q", format=".3f"),
        alt.Tooltip("p_holm:Q", title="p (Holm)", format=".3f"),
        alt.Tooltip("note:N", title="mind"),
    ]
    base = alt.Chart(table).encode(
        x=alt.X("task:N", title="evaluated on (task)", axis=alt.Axis(labelAngle=0, orient="top"), scale=alt.Scale(paddingInner=0.04)),
        y=alt.Y("run:N", sort=runs, title="run (task it was mined on)", axis=alt.Axis(labelLimit=260), scale=alt.Scale(paddingInner=0.08)),
        tooltip=tooltip,
    )
    cells = base.mark_rect(stroke=GREY).encode(
        color=alt.Color(
            "difference:Q",
            scale=alt.Scale(domain=[low, high], domainMid=0, range=list(DIVERGING)),
            legend=alt.Legend(title=["stir minus", "baseline", "(points)"], format="+.0f", gradientLength=70),
        ),
        strokeWidth=alt.condition("datum.own", alt.value(2.5), alt.value(0)),
    )
    far = f"abs(datum.difference) > {0.8 * high}"
    text = base.mark_text(fontSize=12).encode(
        text=alt.Text("shown:N"), color=alt.condition(far, alt.value("#ffffff"), alt.value("#1f2933"))
    )
    columns = len(set(table["task"]))
    return alt.LayerChart(layer=[cells, text]).properties(height=130 + 44 * len(runs), width=360 + 110 * columns)
