"""Charts of an impulse's effects: by layer, by token, in attention, and by strength."""

import altair as alt
import pandas as pd

from workbench.shared.charts import CHOSEN, CORRECTIVE, DIVERGING, GREY, NULL, SEQUENTIAL, STEERED, VANILLA, symmetric, vertical_rule

_TOP = alt.Legend(orient="top", title=None)
_FINE_NATS = alt.Axis(format="~g", values=[0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10])
_NATS = alt.Axis(format="~g", values=[0, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20])
_TOKENS = alt.Axis(labelFont="monospace", labelAngle=-60, labelOverlap=False)


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

    def curve(y: alt.Y, colour: str) -> alt.Chart:
        line = base.mark_line(point=alt.OverlayMarkDef(size=45, filled=True, color=colour), color=colour)
        return line.encode(y=y).properties(height=230, width=235)

    lowest = min([0.0, *table["cosine"].dropna().tolist()])
    size = alt.Y("relative:Q", title="‖disturbance‖ / ‖unsteered residual‖", scale=alt.Scale(zero=True))
    direction = alt.Y("cosine:Q", title="cosine with the injected vector", scale=alt.Scale(domain=[lowest, 1.0]))
    return alt.hconcat(curve(size, CORRECTIVE), curve(direction, NULL))


def travel_heatmap(table: pd.DataFrame) -> alt.Chart:
    """Layer by token heatmap of :func:`workbench.actions.data.travel_table`; square-root colours, so that small values show."""
    tokens = list(dict.fromkeys(table["token"]))
    most = max([*table["relative"].tolist(), 1e-6])
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X("token:N", sort=tokens, title="token (0 is the control point)", axis=_TOKENS),
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


WAYS = ("attention free", "attention frozen")


def shift_dumbbells(table: pd.DataFrame) -> alt.LayerChart:
    """Probability of each next token of :func:`workbench.actions.data.shift_table`, unsteered (grey) and steered (vermilion)."""
    order = list(table["token"])
    y = alt.Y(
        "token:N",
        sort=order,
        title="next token and its id",
        axis=alt.Axis(labelFont="monospace", labelLimit=150, labelOverlap=False, labelFontSize=11),
    )
    tooltip = [
        "token:N",
        alt.Tooltip("before:Q", format=".4f"),
        alt.Tooltip("after:Q", format=".4f"),
        alt.Tooltip("change:Q", format="+.4f"),
    ]
    lines = alt.Chart(table).mark_rule(strokeWidth=2, color=GREY, opacity=0.6).encode(x="before:Q", x2="after:Q", y=y, tooltip=tooltip)
    long = table.melt(["token", "change"], ["before", "after"], "arm", "probability")
    names = {"before": "unsteered", "after": "steered"}
    dots = (
        alt.Chart(long.assign(arm=[names[arm] for arm in long["arm"]]))
        .mark_point(filled=True, size=80, opacity=1)
        .encode(
            x=alt.X("probability:Q", title="probability at the control point"),
            y=y,
            color=alt.Color("arm:N", scale=alt.Scale(domain=list(names.values()), range=[VANILLA, STEERED]), legend=_TOP),
            shape=alt.Shape("arm:N", scale=alt.Scale(domain=list(names.values()), range=["circle", "triangle-right"]), legend=_TOP),
            tooltip=["token:N", "arm:N", alt.Tooltip("probability:Q", format=".4f"), alt.Tooltip("change:Q", format="+.4f")],
        )
    )
    return alt.LayerChart(layer=[lines, dots]).properties(height=24 * len(order) + 90)


def divergence_curves(table: pd.DataFrame) -> alt.Chart:
    """KL after each token with attention free and frozen, from :func:`workbench.actions.data.divergence_table`, on a symlog scale."""
    tokens = list(dict.fromkeys(table["token"]))
    return (
        alt.Chart(table)
        .mark_line(point=alt.OverlayMarkDef(size=50, filled=True))
        .encode(
            x=alt.X("token:N", sort=tokens, title="after token (0 is the control point)", axis=_TOKENS),
            y=alt.Y("kl:Q", title="KL(steered || unsteered), nats", scale=alt.Scale(type="symlog", constant=1e-3), axis=_FINE_NATS),
            color=alt.Color("way:N", scale=alt.Scale(domain=list(WAYS), range=[STEERED, NULL]), legend=_TOP),
            strokeDash=alt.StrokeDash("way:N", scale=alt.Scale(domain=list(WAYS), range=[[1, 0], [5, 3]]), legend=_TOP),
            tooltip=["token:N", "way:N", alt.Tooltip("kl:Q", title="KL (nats)", format=".6f")],
        )
        .properties(height=330)
    )


def attention_maps(table: pd.DataFrame, layer: int) -> alt.HConcatChart:
    """Three heatmaps of :func:`workbench.actions.data.attention_table`: unsteered and steered on one scale, and their difference around 0.

    Args:
        layer: block whose output the impulse was added to, marked by a line.
    """
    most = max([*table["unsteered"].tolist(), *table["steered"].tolist(), 1e-6])
    share = (alt.Scale(type="sqrt", domain=[0, most], scheme=SEQUENTIAL), alt.Legend(title="attention", format=".2f"))
    change = alt.Scale(domain=list(symmetric(list(table["difference"]))), domainMid=0, range=list(DIVERGING))
    difference = _map(table, layer, "difference", change, alt.Legend(title=["steered", "- unsteered"], format="+.3f"))
    maps = (_map(table, layer, "unsteered", *share), _map(table, layer, "steered", *share), difference)
    return alt.hconcat(*maps).resolve_scale(color="independent")


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
                *(alt.Tooltip(f"{name}:Q", format=".4f") for name in ("unsteered", "steered")),
                alt.Tooltip("difference:Q", format="+.4f"),
            ],
        )
    )
    mark = alt.Chart(pd.DataFrame({"layer": [layer]})).mark_rule(color=CHOSEN, strokeWidth=2)
    line = mark.encode(y=alt.Y("layer:O", sort=layers, bandPosition=0))
    height, width = 11 * len(layers) + 40, max(150, 17 * table["head"].nunique())
    return alt.LayerChart(layer=[cells, line]).properties(title=field, height=height, width=width)


SERIES = {"kl": "at the control point", "kl after": "mean over the step's tokens"}


def dose_curve(table: pd.DataFrame, alpha: float, degenerate: float | None, unit: float) -> alt.LayerChart:
    """KL against strength, from :func:`workbench.actions.data.dose_table`; strength 0, whose KL is 0, is left out.

    Args:
        alpha: the strength of the other figures, marked by a dashed line.
        degenerate: lowest strength of degenerate text, marked by a solid line; ``None`` if there is none.
        unit: norm of the impulse at strength 1 over the residual's norm, for the axis title.
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
    rules = [vertical_rule("alpha", alpha, GREY, [4, 3])] if low <= alpha <= high else []
    if degenerate is not None:
        rules.append(vertical_rule("alpha", degenerate, CHOSEN))
    return alt.LayerChart(layer=[*rules, base.mark_line(), dots]).properties(height=300)


def projection_shares(table: pd.DataFrame) -> alt.Chart:
    """Steps of right and of wrong rollouts along an action (:func:`workbench.actions.meaning.counts_table`); each adds up to 1."""
    outcomes = alt.Scale(domain=["right", "wrong"], range=[NULL, CORRECTIVE])
    return (
        alt.Chart(table)
        .mark_area(interpolate="step-after", opacity=0.35, line={"strokeWidth": 1.5})
        .encode(
            x=alt.X("low:Q", title="projection on the action", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(format="~g")),
            y=alt.Y("share:Q", title="share of steps", stack=None, axis=alt.Axis(format="%")),
            color=alt.Color("outcome:N", scale=outcomes, legend=_TOP),
            strokeDash=alt.StrokeDash("outcome:N", scale=alt.Scale(domain=["right", "wrong"], range=[[1, 0], [5, 3]]), legend=_TOP),
            tooltip=[
                "outcome:N",
                alt.Tooltip("low:Q", title="from", format=".3g"),
                alt.Tooltip("high:Q", title="to", format=".3g"),
                "steps:Q",
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
        .properties(height=220)
    )
