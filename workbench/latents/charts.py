"""Figures by latent and block: where the answer looks, and what a probe reads."""

import altair as alt
import pandas as pd

from workbench.shared.charts import SEQUENTIAL


def latent_map(table: pd.DataFrame, value: str, form: str) -> alt.LayerChart:
    """Latent by block; each cell shows its number.

    Args:
        table: columns ``latent``, ``block`` and ``value``, between 0 and 1; others are shown with a cell.
        form: of the numbers, such as ``.2f``.
    """
    order = {name: list(dict.fromkeys(table[name])) for name in ("latent", "block")}
    shown = [alt.Tooltip(f"{name}:N") for name in table.columns if name != value] + [alt.Tooltip(f"{value}:Q", format=form)]
    base = alt.Chart(table).encode(
        x=alt.X("latent:N", sort=order["latent"], title="latent", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("block:N", sort=order["block"], title="block"),
        tooltip=shown,
    )
    colour = alt.Color(f"{value}:Q", scale=alt.Scale(scheme=SEQUENTIAL, domain=[0, 1]), legend=None)
    number = base.mark_text(fontSize=11).encode(
        text=alt.Text(f"{value}:Q", format=form), color=alt.condition(f"datum.{value} > 0.5", alt.value("#111"), alt.value("#fff"))
    )
    return alt.LayerChart(layer=[base.mark_rect().encode(color=colour), number]).properties(height=60 + 34 * table["block"].nunique())
