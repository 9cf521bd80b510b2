"""Charts as files: every mark, name and interval of a figure is in its SVG; a PDF is one page; what is not known is refused."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import re
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import pandas as pd
import plotly.graph_objects as go
import pytest

from stir_core.errors import DataError
from stir_core.store.calibrations import SHIPPED, read_calibration
from workbench.calibration.charts import accuracy_chart
from workbench.calibration.data import accuracy_table
from workbench.shared.charts import forest, gate_axes, key_mark, method_forest, set_axes
from workbench.shared.charts_paper import is_plotly, pdf, specification, svg

ROWS = pd.DataFrame(
    {
        "name": ["one <b>", "two", "three"],
        "n": ["n 5", "n 7", "n 2"],
        "value": [0.1, -0.2, 0.0],
        "low": [0.0, -0.4, None],
        "high": [0.2, -0.1, None],
        "verdict": ["helps", "harms", "cannot tell"],
        "hover": ["", "", ""],
    }
)


def drawn(figure: object) -> ElementTree.Element:
    """The figure's SVG document."""
    return ElementTree.fromstring(svg(figure))


def words(root: ElementTree.Element) -> str:
    return "\n".join("".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text"))


def marks(root: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    """The marks of one kind, without those of axes and legends."""
    groups = [each for each in root.iter() if re.search(rf"\bmark-{kind} role-mark\b", each.get("class", ""))]
    return [each for group in groups for each in group]


def test_a_forest_has_a_mark_for_each_row_and_a_line_for_each_interval() -> None:
    root = drawn(forest(ROWS, "advantage (share)", chosen="two"))
    assert len(marks(root, "symbol")) == len(ROWS) + 1  # the ring of the chosen one
    assert len(marks(root, "rule")) == ROWS["low"].notna().sum() + 1  # the line at 0
    assert all(text in words(root) for text in ("one <b>  (n 5)", "two  (n 7)", "advantage (share)", "helps", "cannot tell"))


def test_places_on_a_linear_axis_are_proportional_to_values() -> None:
    figure = go.Figure(go.Scatter(x=[0, 1, 4], y=[0, 10, 40], mode="markers"))
    set_axes(figure, "x", "y", xaxis_range=[-1, 5], yaxis_range=[-10, 50])
    places = [re.findall(r"-?[\d.]+", each.get("transform", "")) for each in marks(drawn(figure), "symbol")]
    (x0, y0), (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in places]
    assert (x2 - x0) == pytest.approx(4 * (x1 - x0)) and (y0 - y2) == pytest.approx(4 * (y0 - y1)) and x1 > x0 and y1 < y0


def test_two_panels_stand_side_by_side() -> None:
    table = ROWS.assign(value=[50.0, 60.0, 70.0], low=[40.0, 50.0, 60.0], high=[60.0, 70.0, 80.0])
    spec = specification(method_forest(table, ROWS, "two"))
    root = drawn(method_forest(table, ROWS, "two"))
    assert len(spec["hconcat"]) == 2 and len(marks(root, "symbol")) == 2 * len(ROWS)
    assert "accuracy (%)" in words(root) and words(root).count("one <b>  (n 5)") == 1


def test_rungs_lie_side_by_side_in_a_method() -> None:
    table = accuracy_table(read_calibration(SHIPPED))
    root = drawn(accuracy_chart(table))
    heights = {each.get("transform", "").split(",")[-1] for each in marks(root, "symbol")}
    assert len(marks(root, "symbol")) == len(marks(root, "rule")) == len(heights) == len(table)


def test_colours_of_numbers_have_one_bar_and_shapes_a_legend() -> None:
    figure = gate_axes()
    for name, shape in (("first", "star"), ("second", "diamond-open")):
        figure.add_trace(key_mark(name, symbol=shape))
        marker = {"color": [-0.5, 0.5], "coloraxis": "coloraxis", "symbol": shape}
        figure.add_trace(go.Scatter(x=[0.1, 0.2], y=[0.1, 0.3], mode="markers", showlegend=False, marker=marker))
    figure.update_layout(coloraxis={"colorscale": "Viridis", "cmin": -1, "cmax": 1, "colorbar": {"title": {"text": "advantage"}}})
    root = drawn(figure)  # a hollow mark has a wider grey one below it: the middle of a scale may be as white as paper
    assert words(root).count("advantage") == 1 and words(root).count("first") == words(root).count("second") == 1
    assert len(marks(root, "symbol")) == 2 + 2 * 2 and "null score: commit above" in words(root)


def test_an_altair_chart_keeps_its_own_width_and_a_pdf_is_one_page() -> None:
    chart = alt.Chart(ROWS).mark_point().encode(x=alt.X("value:Q", title="worth"), y="name:N")
    assert not is_plotly(chart) and specification(chart.properties(width=77))["width"] == 77
    assert "worth" in words(drawn(chart)) and 'fill="white"' in svg(chart)
    made = pdf(chart)
    assert made.startswith(b"%PDF-") and re.search(rb"/Type\s*/Pages\b[^>]*/Count\s+1\b|/Count\s+1\b", made)


def test_a_token_of_any_characters_is_a_label() -> None:
    """The converter is not Python: what it cannot take would end the server."""
    nasty = "a" + "".join(map(chr, range(32))) + "\x7f\x85\ufffe\uffff\u202e<&>'\"\U0001f600z"
    chart = alt.Chart(pd.DataFrame({"x": [1], "token": [nasty]})).mark_bar().encode(x=alt.X("x:Q", title=nasty), y="token:N")
    assert words(drawn(chart)).count("\U0001f600z") == 2
    points = go.Figure([go.Scatter(x=[1, 2], y=[nasty, "b"], mode="markers", name=name) for name in (f"{nasty}\ud800", "b")])
    assert words(drawn(points)).count("\U0001f600z") == 2 and pdf(points)


def test_a_line_is_broken_where_nothing_was_measured() -> None:
    figure = go.Figure(go.Scatter(x=[0, 1, 2, 3, 4], y=[0, 1, float("nan"), 3, None], error_y={"array": [1] * 5}, mode="lines+markers"))
    root = drawn(figure)
    (line,) = marks(root, "line")
    assert len(re.findall("M", line.get("d", ""))) == 2 and len(marks(root, "symbol")) == len(marks(root, "rule")) == 3


def test_pale_marks_of_a_scale_are_seen_on_paper() -> None:
    marker = {"color": [-1, 0, 1], "colorscale": [[0, "#000"], [0.9, "#fff"], [1, "#f00"]], "symbol": ["circle", "square", "cross"]}
    root = drawn(go.Figure(go.Scatter(x=[1, 2, 3], y=[1, 2, 3], mode="markers", marker=marker)))
    assert all(each.get("stroke") and float(each.get("stroke-width", 0)) > 0 for each in marks(root, "symbol"))
    shades = [int(re.findall(r"\d+", each.get("fill", ""))[0]) for each in marks(root, "symbol")[:2]]
    assert shades == [0, pytest.approx(255 * 0.5 / 0.9, abs=1)]  # stops lie where the scale has them


def test_places_on_a_logarithmic_axis_and_categories_that_its_order_leaves_out() -> None:
    figure = go.Figure(go.Scatter(x=[1, 10, 100], y=["a", "c", "b"], mode="markers"))
    figure.update_xaxes(type="log", range=[-1, 3])
    figure.update_yaxes(categoryorder="array", categoryarray=["b", "a"], tickvals=["c"], ticktext=["c \ud800"])
    root = drawn(figure)
    places = [[float(each) for each in re.findall(r"-?[\d.]+", mark.get("transform", ""))] for mark in marks(root, "symbol")]
    (x0, a), (x1, c), (x2, b) = places
    assert x2 - x1 == pytest.approx(x1 - x0) == pytest.approx(160, abs=1) and b > a > c and pdf(figure)


@pytest.mark.parametrize(
    "figure",
    [
        go.Figure(go.Bar(x=[1], y=[2], base=3)),
        go.Figure(go.Bar(x=[1], y=[2], orientation="h")),
        go.Figure([go.Bar(x=[1], y=[2])] * 2, {"barmode": "stack"}),
        go.Figure(go.Scatter(x=[1], y=[2], mode="markers+text", text=["lost"])),
        go.Figure(go.Scatter(x=[1], y=[2], fill="tozeroy")),
        go.Figure(go.Scatter(x=[1, 2], y=[2, 3], line_shape="spline")),
        go.Figure(go.Scatter(x=[1], y=[2], visible="legendonly")),
        go.Figure(go.Scatter(x=[1], y=[2], mode="markers", marker_symbol="hourglass")),
        go.Figure(go.Scatter(x=[1], y=[2]), {"yaxis": {"autorange": "reversed"}}),
        go.Figure(go.Scatter(x=["a"], y=[2]), {"xaxis": {"categoryorder": "total ascending"}}),
        go.Figure().add_shape(type="line", x0=0, x1=1, y0=0, y1=1),
        go.Figure().add_hrect(1, 2),
        go.Figure().add_vline(1, annotation_text="here"),
    ],
)
def test_what_would_be_lost_or_misplaced_is_refused(figure: go.Figure) -> None:
    with pytest.raises(DataError, match="of a plotly figure cannot be written as SVG or PDF: draw it with Altair"):
        svg(figure)


@pytest.mark.parametrize("trace", [go.Heatmap(z=[[1, 2]]), go.Pie(values=[1])])
def test_a_kind_that_is_not_known_is_refused(trace: object) -> None:
    with pytest.raises(DataError, match="cannot be written as SVG or PDF: draw it with Altair"):
        svg(go.Figure(trace))


def test_every_chart_of_a_page_can_be_saved() -> None:
    """They are drawn in one place, which adds the links."""
    files = list((Path(__file__).resolve().parents[2] / "workbench").rglob("view*.py"))
    drawing = {file.name for file in files if re.search(r"\.(plotly|altair|vega_lite)_chart\(", file.read_text("utf-8"))}
    assert drawing == {"view_charts.py"}
