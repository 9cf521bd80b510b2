"""Dose-response: divergence against strength, with the strengths from which on the text degenerates."""

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import CHOSEN, GREY, NULL, STEERED

SERIES = {"kl": "at the control point", "kl behind": "mean over the step's tokens"}


_TOP = alt.Legend(orient="top", title=None)
_NATS = alt.Axis(format="~g", values=[0, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20])


def dose_curve(table: pd.DataFrame, alpha: float, degenerate: float | None, unit: float) -> alt.LayerChart:
    """Curves of :func:`workbench.actions.data.dose_table`, strength 0 left out (its divergence is 0).

    Args:
        alpha: the strength of the other figures, marked.
        degenerate: first strength of degenerate text, marked; ``None``: none was.
        unit: the impulse of strength 1, as a fraction of the residual's norm, for the axis title.
    """
    shown = table[table["alpha"] > 0]
    long = shown.melt(["alpha", "fraction", "degenerate", "text"], list(SERIES), "series", "nats").dropna(subset=["nats"])
    long = long.assign(
        series=[SERIES[name] for name in long["series"]], reads=["degenerate" if why else "reads well" for why in long["degenerate"]]
    )
    low, high = min(shown["alpha"].tolist()), max(shown["alpha"].tolist())
    x = alt.X(
        "alpha:Q",
        title=f"strength α (α = 1 is {unit:.0%} of the residual's norm)",
        scale=alt.Scale(type="log", base=2, domain=[low, high], nice=False),
        axis=alt.Axis(format="~g"),
    )
    y = alt.Y("nats:Q", title="KL(steered || unsteered), nats", scale=alt.Scale(type="symlog", constant=1e-2), axis=_NATS)
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(SERIES.values()), range=[STEERED, NULL]), legend=_TOP)
    base = alt.Chart(long).encode(x=x, y=y, color=colour)
    dots = base.mark_point(size=70, filled=True, opacity=1).encode(
        shape=alt.Shape("reads:N", scale=alt.Scale(domain=["reads well", "degenerate"], range=["circle", "cross"]), legend=_TOP),
        tooltip=[
            alt.Tooltip("alpha:Q", title="α", format=".4g"),
            alt.Tooltip("fraction:Q", title="of the residual", format=".1%"),
            "series:N",
            alt.Tooltip("nats:Q", format=".4f"),
            alt.Tooltip("degenerate:N"),
            alt.Tooltip("text:N"),
        ],
    )
    layers: list[alt.Chart] = [_rule(alpha, GREY, [4, 3])] if low <= alpha <= high else []
    if degenerate is not None:
        layers.append(_rule(degenerate, CHOSEN, [1, 0]))
    return alt.LayerChart(layer=[*layers, base.mark_line(), dots]).properties(height=300)


def _rule(alpha: float, colour: str, dash: list[int]) -> alt.Chart:
    return alt.Chart(pd.DataFrame({"alpha": [alpha]})).mark_rule(color=colour, strokeDash=dash, strokeWidth=2).encode(x="alpha:Q")
