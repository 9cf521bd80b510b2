"""Attention of later tokens back to the control point, head by layer: unsteered, steered, and their difference."""

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import CHOSEN, DIVERGING, SEQUENTIAL, symmetric


def attention_maps(table: pd.DataFrame, layer: int) -> alt.HConcatChart:
    """Three heatmaps of :func:`workbench.actions.data.attention_table`; ``layer``: where the impulse was added, marked by a line.

    Clean and steered share a scale; the difference has its own, centred on 0.
    """
    most = max([*table["unsteered"].tolist(), *table["steered"].tolist(), 1e-6])
    share = alt.Scale(type="sqrt", domain=[0, most], scheme=SEQUENTIAL)
    low, high = symmetric(list(table["difference"]))
    apart = alt.Scale(domain=[low, high], domainMid=0, range=list(DIVERGING))
    charts = [
        _map(table, layer, "unsteered", share, alt.Legend(title="attention", format=".2f")),
        _map(table, layer, "steered", share, alt.Legend(title="attention", format=".2f")),
        _map(table, layer, "difference", apart, alt.Legend(title=["steered", "- unsteered"], format="+.3f")),
    ]
    return alt.hconcat(*charts).resolve_scale(color="independent")


def _map(table: pd.DataFrame, layer: int, field: str, scale: alt.Scale, legend: alt.Legend) -> alt.LayerChart:
    layers = sorted(table["layer"].unique(), reverse=True)
    y = alt.Y("layer:O", sort=layers, title="layer (block)")
    cells = (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0)),
            y=y,
            color=alt.Color(f"{field}:Q", scale=scale, legend=legend),
            tooltip=[
                "layer:O",
                "head:O",
                *[
                    alt.Tooltip(f"{name}:Q", format=form)
                    for name, form in (("unsteered", ".4f"), ("steered", ".4f"), ("difference", "+.4f"))
                ],
            ],
        )
    )
    mark = alt.Chart(pd.DataFrame({"layer": [layer]})).mark_rule(color=CHOSEN, strokeWidth=2)
    line = mark.encode(y=alt.Y("layer:O", sort=layers, bandPosition=0))
    height, width = 11 * len(layers) + 40, max(150, 17 * table["head"].nunique())
    return alt.LayerChart(layer=[cells, line]).properties(title=field, height=height, width=width)
