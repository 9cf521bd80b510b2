"""Figures say what they show: titles with units, one mark a row, scales centred on 0, colours that stay apart."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

import altair as alt
import numpy as np
import pytest

from workbench.figures import action_map, colours, cosine_heatmap, coverage_bars, gate_margins, lens_bars
from workbench.services import basis_geometry, gate_evidence
from workbench.services.run_facts import RunFacts


def encodings(chart: alt.Chart | alt.LayerChart) -> list[dict]:
    """Encodings of a chart and of its layers."""
    spec = chart.to_dict()
    return [layer["encoding"] for layer in spec.get("layer", [spec])]


@pytest.mark.parametrize("projection", ["umap", "pca"])
@pytest.mark.parametrize("colouring", list(action_map.COLOURINGS))
def test_map_has_one_point_an_entry(facts: RunFacts, projection: str, colouring: str) -> None:
    figure = action_map.action_map(basis_geometry.map_table(facts, projection), projection, colouring, "p0003c")
    points = [data for trace in figure.data if trace.customdata is not None for data in trace.customdata]
    assert sorted(data[0] for data in points) == sorted(facts.entries)
    rings = [trace for trace in figure.data if trace.name == "chosen"]
    assert len(rings) == 1 and len(rings[0].x) == 1
    assert projection.upper() in figure.layout.xaxis.title.text and "(" in figure.layout.yaxis.title.text
    symbols = [symbol for trace in figure.data if trace.customdata is not None for symbol in trace.marker.symbol]
    assert symbols.count("circle") == 14 and symbols.count("circle-open") == 10


def test_an_unknown_choice_draws_no_ring(facts: RunFacts) -> None:
    figure = action_map.action_map(basis_geometry.map_table(facts, "pca"), "pca", "step", "nobody")
    assert all(trace.name != "chosen" for trace in figure.data)


def test_heatmap_keeps_cluster_order_and_centres_on_zero(facts: RunFacts) -> None:
    table = basis_geometry.heatmap_table(facts, "keys", list(facts.entries))
    encoding = encodings(cosine_heatmap.cosine_heatmap(table))[0]
    assert sorted(encoding["x"]["sort"]) == sorted(facts.entries)
    assert encoding["x"]["sort"] == encoding["y"]["sort"]
    assert encoding["color"]["scale"]["domain"] == [-1, 1] and encoding["color"]["scale"]["domainMid"] == 0
    stretched = encodings(cosine_heatmap.cosine_heatmap(table, full_range=False))[0]["color"]["scale"]
    assert stretched["domain"] == [pytest.approx(table["cosine"].min()), 1.0]


def test_margins_are_centred_on_zero(facts: RunFacts) -> None:
    trace = facts.steered["arithmetic/eval/0"]
    chart = gate_margins.margin_heatmap(gate_evidence.margin_table(trace), len(trace.steps))
    cells = encodings(chart)[0]
    low, high = cells["color"]["scale"]["domain"]
    assert low == -high and cells["color"]["scale"]["domainMid"] == 0
    assert cells["x"]["scale"]["domain"] == [1, 2, 3, 4, 5]


def test_every_axis_has_a_title(facts: RunFacts) -> None:
    trace = facts.steered["arithmetic/eval/0"]
    charts = [
        cosine_heatmap.cosine_heatmap(basis_geometry.heatmap_table(facts, "actions", list(facts.action_ids))),
        coverage_bars.counts_by_step(basis_geometry.counts_by_step(facts)),
        coverage_bars.pick_gains(basis_geometry.pick_table(facts)),
        gate_margins.margin_heatmap(gate_evidence.margin_table(trace), 5),
        gate_margins.firing_by_step(gate_evidence.firing_by_step(facts.steered.values())),
        lens_bars.lens_bars(facts.lenses["p0000c"]),
    ]
    for chart in charts:
        first = encodings(chart)[0]
        assert first["x"]["title"] and first["y"]["title"]


def test_lens_lists_promoted_then_suppressed(facts: RunFacts) -> None:
    table = lens_bars.lens_table(facts.lenses["p0000c"], 5)
    assert len(table) == 10 and table["token"].is_unique
    assert list(table["sign"]) == ["promoted"] * 5 + ["suppressed"] * 5
    assert (np.diff(table["logit"]) <= 0).all()


def test_colours_stay_apart() -> None:
    assert len(set(colours.ordered(8))) == 8
    assert len(set(colours.categorical(10))) == 10
    assert colours.symmetric([0.2, -0.5]) == (-0.5, 0.5)
    assert colours.symmetric([]) == (-1e-6, 1e-6)
