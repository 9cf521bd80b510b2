"""How a disturbance travels: its size and direction by layer, and its size layer by token."""

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import CORRECTIVE, NULL, SEQUENTIAL


def disturbance_curves(table: pd.DataFrame) -> alt.HConcatChart:
    """Two panels over layers from :func:`workbench.actions.data.layer_table`: relative norm, and cosine with the injected vector."""
    tooltip = [
        "layer:O",
        alt.Tooltip("norm:Q", format=".2f"),
        alt.Tooltip("relative:Q", title="of the unsteered residual", format=".3f"),
        alt.Tooltip("cosine:Q", format="+.3f"),
        alt.Tooltip("promotes:N"),
    ]
    base = alt.Chart(table).encode(x=alt.X("layer:O", title="layer (block output)", axis=alt.Axis(labelAngle=0)), tooltip=tooltip)
    size = base.mark_line(point=alt.OverlayMarkDef(size=45, filled=True, color=CORRECTIVE), color=CORRECTIVE).encode(
        y=alt.Y("relative:Q", title="‖disturbance‖ / ‖unsteered residual‖", scale=alt.Scale(zero=True))
    )
    turn = base.mark_line(point=alt.OverlayMarkDef(size=45, filled=True, color=NULL), color=NULL).encode(
        y=alt.Y("cosine:Q", title="cosine with the injected vector", scale=alt.Scale(domain=_unit(table)))
    )
    return alt.hconcat(size.properties(height=230, width=235), turn.properties(height=230, width=235))


def _unit(table: pd.DataFrame) -> list[float]:
    return [min([0.0, *table["cosine"].dropna().tolist()]), 1.0]


def travel_heatmap(table: pd.DataFrame) -> alt.Chart:
    """Layer by token heatmap of :func:`workbench.actions.data.travel_table`; square-root colour scale, so that small ones show."""
    tokens = list(dict.fromkeys(table["token"]))
    most = max([*table["relative"].tolist(), 1e-6])
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X(
                "token:N",
                sort=tokens,
                title="token (0 is the control point)",
                axis=alt.Axis(labelFont="monospace", labelAngle=-60, labelOverlap=False),
            ),
            y=alt.Y("layer:O", sort="descending", title="layer (block output)"),
            color=alt.Color(
                "relative:Q",
                scale=alt.Scale(type="sqrt", domain=[0, most], scheme=SEQUENTIAL),
                legend=alt.Legend(title=["of the", "residual"], format=".2f"),
            ),
            tooltip=["layer:O", alt.Tooltip("token:N"), alt.Tooltip("relative:Q", title="of the unsteered residual", format=".4f")],
        )
        .properties(height=max(180, 16 * table["layer"].nunique() + 110))
    )
