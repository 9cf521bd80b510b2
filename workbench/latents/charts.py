"""Where the answer looks: attention to each latent by block."""

import altair as alt
import pandas as pd

from workbench.shared.charts import SEQUENTIAL


def attention_map(table: pd.DataFrame) -> alt.LayerChart:
    """Latent by block; each cell shows its number."""
    latents = list(dict.fromkeys(table["latent"]))
    base = alt.Chart(table).encode(
        x=alt.X("latent:N", sort=latents, title="latent", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("block:N", title="block"),
        tooltip=["latent:N", "block:N", alt.Tooltip("attention:Q", format=".3f")],
    )
    colour = alt.Color("attention:Q", scale=alt.Scale(scheme=SEQUENTIAL, domain=[0, 1]), legend=None)
    number = base.mark_text(fontSize=11).encode(
        text=alt.Text("attention:Q", format=".2f"), color=alt.condition("datum.attention > 0.5", alt.value("#111"), alt.value("#fff"))
    )
    return alt.LayerChart(layer=[base.mark_rect().encode(color=colour), number]).properties(height=60 + 34 * table["block"].nunique())
