"""Figures say what they show: titles with units, one mark a row, scales centred on 0, colours that stay apart."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

import re

import altair as alt
import numpy as np
import pandas as pd
import pytest

from stir_core.records import Trace
from workbench.basis import charts as action_map
from workbench.basis import data as basis_geometry
from workbench.basis import reselection
from workbench.gates import charts as gate_margins
from workbench.shared import charts as colours
from workbench.shared import gate_evidence, gate_replay
from workbench.shared.charts import margin_heatmap, step_bars
from workbench.shared.facts import RunFacts


def encodings(chart: alt.Chart | alt.LayerChart) -> list[dict]:
    """Encodings of a chart and of its layers."""
    spec = chart.to_dict()
    return [layer["encoding"] for layer in spec.get("layer", [spec])]


def drawn_map(facts: RunFacts, column: str, projection: str = "pca"):
    """The map coloured by one column, and all its points by entry id."""
    table = basis_geometry.entry_columns(facts)
    places = {"x": table[f"{projection} 1"], "y": table[f"{projection} 2"], "value": table[column]}
    figure = action_map.action_map(table.assign(**places), projection, column, basis_geometry.scale_of(table[column].tolist()))
    return figure, {data[0]: (trace, i) for trace in figure.data for i, data in enumerate(trace.customdata)}


@pytest.mark.parametrize("projection", ["umap", "pca"])
@pytest.mark.parametrize("column", ["m", "quality", "kind", "problem", "in the basis", "length cos", "perm. p", "controls", "pick"])
def test_map_has_one_point_an_entry(facts: RunFacts, projection: str, column: str) -> None:
    figure, points = drawn_map(facts, column, projection)
    assert sum(len(trace.x) for trace in figure.data) == len(facts.entries) and set(points) == set(facts.entries)
    assert projection.upper() in figure.layout.xaxis.title.text and "(" in figure.layout.yaxis.title.text
    symbols = [trace.marker.symbol[i] for trace, i in points.values()]
    assert symbols.count("circle") == 14 and symbols.count("circle-open") == 10
    for id_, place in zip(facts.entries, facts.run.map_coordinates()[projection], strict=True):
        trace, i = points[id_]
        assert (trace.x[i], trace.y[i]) == pytest.approx(tuple(place), abs=1e-6)


def test_map_colours_say_what_the_column_is(facts: RunFacts) -> None:
    figure, points = drawn_map(facts, "length cos")
    trace, i = points["p0001c"]
    assert trace.marker.color[i] == pytest.approx(-0.7)
    assert trace.marker.cmin == -trace.marker.cmax == pytest.approx(-0.7)  # around 0, centred on it
    assert points["p0002c"][0].name == points["p0001n"][0].name == "none"  # never measured is no number
    figure, points = drawn_map(facts, "kind")
    assert points["p0001c"][0].marker.color == colours.CORRECTIVE and points["p0001n"][0].marker.color == colours.NULL
    figure, points = drawn_map(facts, "m")
    assert figure.layout.showlegend and len({points[i][0].marker.color for i in facts.entries}) == 4


def test_heatmap_keeps_cluster_order_and_centres_on_zero(facts: RunFacts) -> None:
    table = basis_geometry.heatmap_table(facts, "keys", list(facts.entries))
    encoding = encodings(action_map.cosine_heatmap(table))[0]
    assert sorted(encoding["x"]["sort"]) == sorted(facts.entries)
    assert encoding["x"]["sort"] == encoding["y"]["sort"]
    assert encoding["color"]["scale"]["domain"] == [-1, 1] and encoding["color"]["scale"]["domainMid"] == 0
    stretched = encodings(action_map.cosine_heatmap(table, full_range=False))[0]["color"]["scale"]
    assert stretched["domain"] == [pytest.approx(table["cosine"].min()), 1.0]


def _margins(facts: RunFacts, trace: Trace) -> pd.DataFrame:
    """Margins of an answer as it was recorded."""
    own = facts.config.gate
    return gate_replay.margin_rows(gate_replay.replay_answer(trace, own, own, seed=facts.config.seed))


def test_margins_are_centred_on_zero(facts: RunFacts) -> None:
    trace = facts.steered["arithmetic/eval/0"]
    chart = margin_heatmap(_margins(facts, trace), len(trace.steps))
    cells = encodings(chart)[0]
    low, high = cells["color"]["scale"]["domain"]
    assert low == -high and cells["color"]["scale"]["domainMid"] == 0
    assert cells["x"]["scale"]["domain"] == [0, 1, 2, 3, 4]


def test_every_axis_has_a_title(facts: RunFacts) -> None:
    trace = facts.steered["arithmetic/eval/0"]
    stored = reselection.stored(facts)
    replay = reselection.replay_table(facts, stored)
    charts = [
        action_map.cosine_heatmap(basis_geometry.heatmap_table(facts, "actions", list(facts.action_ids))),
        action_map.coverage_chart(basis_geometry.counts_by_step(facts)),
        action_map.gain_chart(replay, 3),
        step_bars(reselection.counts(facts, stored, stored), "picks", "selection"),
        margin_heatmap(_margins(facts, trace), 5),
        gate_margins.firing_chart(gate_evidence.firing_rates(facts.steered.values())),
        colours.lens_bars(facts.lenses["p0000c"]),
    ]
    for chart in charts:
        first = encodings(chart)[0]
        assert first["x"]["title"] and first["y"]["title"]


def test_lens_lists_promoted_then_suppressed(facts: RunFacts) -> None:
    table = colours.lens_table(facts.lenses["p0000c"], 5)
    assert len(table) == 10 and table["token"].is_unique
    assert list(table["sign"]) == ["promoted"] * 5 + ["suppressed"] * 5
    assert (np.diff(table["logit"]) <= 0).all()


def test_colours_stay_apart() -> None:
    assert len(set(colours.ordered_colours(8))) == 8
    for colour in colours.ordered_colours(8):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        mark = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05
        assert 1.05 / mark > 2.9 and mark / 0.058 > 2.9, colour  # contrast with the light and the dark page (WCAG asks 3 of marks)
    assert len(set(colours.categorical(10))) == 10
    assert colours.symmetric([0.2, -0.5]) == (-0.5, 0.5)
    assert colours.symmetric([]) == (-1e-6, 1e-6)
