"""The library as a map: one point an entry, filled when it is in the basis, with the chosen one ringed."""

import pandas as pd
import plotly.graph_objects as go

from workbench.figures.colours import CHOSEN, CORRECTIVE, NULL, categorical, ordered

COLOURINGS = {"step": "m", "quality": "quality", "kind": "kind", "problem": "problem", "selected": "selected"}
"""What a reader may colour by, and the column behind it."""
_LEGEND_LIMIT = 12


def action_map(table: pd.DataFrame, projection: str, colouring: str, chosen: str | None = None) -> go.Figure:
    """Scatter of :func:`workbench.services.basis_geometry.map_table`. ``customdata[0]`` of a point is its entry id."""
    figure = go.Figure()
    if chosen in table["entry"].tolist():
        here = table[table["entry"] == chosen]
        ring = {"size": 19, "symbol": "circle-open", "color": CHOSEN, "line": {"width": 2.5}}
        figure.add_trace(
            go.Scatter(x=here["x"], y=here["y"], mode="markers", marker=ring, hoverinfo="skip", name="chosen", showlegend=False)
        )
    if colouring == "quality":
        figure.add_trace(_points(table, "quality", color=table["quality"], colorscale="Cividis", showscale=True, colorbar=_bar()))
        figure.update_traces(showlegend=False)
    else:
        for label, part, colour in _groups(table, colouring):
            figure.add_trace(_points(part, label, color=colour))
    name = projection.upper()
    unit = "arbitrary unit" if projection == "umap" else "along a principal axis of the keys"
    figure.update_layout(
        xaxis_title=f"{name} 1 ({unit})",
        yaxis_title=f"{name} 2 ({unit})",
        legend_title_text="control point m" if colouring == "step" else colouring,
        showlegend=colouring != "quality" and table[COLOURINGS[colouring]].nunique() <= _LEGEND_LIMIT,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        height=470,
        dragmode="pan",
        clickmode="event+select",
        uirevision=f"{projection}",
    )
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(zeroline=False)
    return figure


def _points(part: pd.DataFrame, name: str, **marker: object) -> go.Scatter:
    shape = ["circle" if selected else "circle-open" for selected in part["selected"]]
    place = "m %{customdata[1]}, layer %{customdata[2]}, %{customdata[3]}"
    hover = f"<b>%{{customdata[0]}}</b>  {place}<br>quality %{{customdata[4]:.3f}}<extra></extra>"
    return go.Scatter(
        x=part["x"],
        y=part["y"],
        mode="markers",
        name=name,
        customdata=part[["entry", "m", "layer", "kind", "quality"]].values.tolist(),
        hovertemplate=hover,
        marker={"size": 10, "symbol": shape, "line": {"width": 1.5}, **marker},
    )


def _groups(table: pd.DataFrame, colouring: str) -> list[tuple[str, pd.DataFrame, str]]:
    column = COLOURINGS[colouring]
    values = sorted(table[column].unique(), reverse=colouring == "selected")
    if colouring == "step":
        colours = ordered(len(values))
    elif colouring == "kind":
        colours = [CORRECTIVE if value == "corrective" else NULL for value in values]
    elif colouring == "selected":
        colours = [CORRECTIVE if value else "#8a8f98" for value in values]
    else:
        colours = categorical(len(values))
    names = {True: "in the basis", False: "dropped"} if colouring == "selected" else {}
    parts = {value: pd.DataFrame(table[table[column] == value]) for value in values}
    return [(names.get(value, str(value)), parts[value], colour) for value, colour in zip(values, colours, strict=True)]


def _bar() -> dict[str, object]:
    return {"title": {"text": "quality"}, "thickness": 12, "outlinewidth": 0}
