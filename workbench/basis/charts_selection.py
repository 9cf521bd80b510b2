"""A selection replayed: where the picks so far lie, and what each was worth in quality and in diversity."""

from typing import Any

import altair as alt
import pandas as pd

from workbench.shared.charts_colours import CHOSEN, CORRECTIVE, GREY, NULL

PICKED = "picked"
"""Name of the point selection of both charts: field ``pick``, counted from 1."""
PARTS = ("quality gain", "log-det gain")
_GROUND = 1500
"""Most entries drawn as ground: beyond that every second, third, ... one."""


def picks_map(table: pd.DataFrame, now: int) -> alt.LayerChart:
    """The picks up to ``now`` over all entries: early ones dark, the last one ringed.

    Args:
        table: one row an entry, columns ``entry, x, y`` and ``pick`` (empty for what was not picked).
        now: number of picks shown.
    """
    axis = alt.Axis(labels=False, ticks=False, grid=False, domain=False)
    x = alt.X("x:Q", title=None, axis=axis, scale=alt.Scale(zero=False))
    y = alt.Y("y:Q", title=None, axis=axis, scale=alt.Scale(zero=False))
    done = pd.DataFrame(table[table["pick"] <= now])
    last = pd.DataFrame(table[table["pick"] == now])
    ground = table.iloc[:: -(-len(table) // _GROUND)]
    tooltip = ["entry:N", "pick:Q"]
    order = alt.Color(
        "pick:Q",
        scale=alt.Scale(scheme="viridis", domain=[1, max([2, *(int(pick) for pick in table["pick"].dropna().tolist())])]),
        legend=alt.Legend(title="pick", tickMinStep=1),
    )
    return alt.LayerChart(
        layer=[
            alt.Chart(ground).mark_circle(size=9, color=GREY, opacity=0.35).encode(x=x, y=y),
            alt.Chart(done).mark_circle(size=46, opacity=0.95).encode(x=x, y=y, color=order, tooltip=tooltip),
            alt.Chart(last).mark_point(size=230, color=CHOSEN, strokeWidth=2.4, filled=False).encode(x=x, y=y, tooltip=tooltip),
        ]
    ).properties(height=330)


def gain_parts(table: pd.DataFrame, now: int) -> alt.Chart:
    """Both parts of every pick's gain as points over its number, those still to come faint; a click on one goes there."""
    columns = ["pick", "entry", "gain", "forced", *PARTS]
    long = table[columns].melt(["pick", "entry", "gain", "forced"], list(PARTS), "part", "value")
    go_there: Any = alt.selection_point(name=PICKED, fields=["pick"])
    return (
        alt.Chart(long)
        .mark_point(filled=True, size=42)
        .encode(
            x=alt.X("pick:Q", title="pick (order of selection)", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("value:Q", title="part of the marginal gain"),
            color=alt.Color("part:N", scale=alt.Scale(domain=list(PARTS), range=[CORRECTIVE, NULL]), title="part"),
            shape=alt.Shape("forced:N", scale=alt.Scale(domain=[False, True], range=["circle", "square"]), title="forced in"),
            opacity=alt.condition(f"datum.pick <= {now}", alt.value(1.0), alt.value(0.25)),
            size=alt.condition(f"datum.pick == {now}", alt.value(150), alt.value(42)),
            tooltip=[
                "pick:Q",
                "entry:N",
                "part:N",
                alt.Tooltip("value:Q", format="+.3f"),
                alt.Tooltip("gain:Q", format="+.3f", title="gain of the objective"),
                "forced:N",
            ],
        )
        .add_params(go_there)
        .properties(height=330)
    )


def counts_of_two(table: pd.DataFrame) -> alt.Chart:
    """Picks at every control point, stored and re-selected side by side; columns ``m, kind, selection, picks``."""
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("m:O", title="control point m (finished steps)", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("selection:N", sort=["stored", "re-selected"]),
            y=alt.Y("sum(picks):Q", title="picks (count)", axis=alt.Axis(tickMinStep=1)),
            color=alt.Color("kind:N", scale=alt.Scale(domain=["corrective", "null"], range=[CORRECTIVE, NULL]), title="kind"),
            opacity=alt.Opacity(
                "selection:N",
                scale=alt.Scale(domain=["stored", "re-selected"], range=[0.45, 1.0]),
                title="selection",
                sort=["stored", "re-selected"],
            ),
            tooltip=["selection:N", "m:O", "kind:N", alt.Tooltip("picks:Q", title="picks")],
        )
        .properties(height=240)
    )
