"""The Calibration page: marks by instrument and rung as the result has them, every method's accuracy, and results of one's own."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_calibration import fake_report, fake_rung
from page_reading import clean, components, texts
from streamlit.testing.v1 import AppTest

from stir_core.findings import CalibrationReport
from stir_core.store.calibrations import SHIPPED, read_calibration, write_calibration
from workbench.calibration.charts import accuracy_chart
from workbench.calibration.data import (
    METHODS,
    accuracy_table,
    calibration_line,
    coverage_line,
    estimator_table,
    gate_table,
    instrument_rows,
)

OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="module")
def report() -> CalibrationReport:
    """Three rungs; the abstaining gate harms on one."""
    return fake_report(fake_rung("two_habits"), fake_rung("hidden_kind"), fake_rung("null", default=-5))


def test_every_mark_has_its_cell(report: CalibrationReport) -> None:
    rows = instrument_rows(report)
    cells = {(row["instrument"], rung): cell for row in rows for rung, cell in zip(report.rungs, row["cells"], strict=True)}
    shown = {place for place, cell in cells.items() if cell}
    assert shown == {(mark.instrument, mark.rung) for mark in report.marks}
    for mark in report.marks:
        cell = cells[mark.instrument, mark.rung]
        assert cell == {"expected": mark.expected, "seen": mark.seen, "passed": mark.passed, "why": mark.why}
    assert cells["basis", "null"] is None  # no habit, so no sign to be covered
    assert len({row["instrument"] for row in rows}) == len(rows)


def test_failures_are_named(report: CalibrationReport) -> None:
    assert report.verdict == f"1 of {len(report.marks)} marks failed: abstaining gate on null."
    right = fake_report(fake_rung("two_habits"))
    assert right.verdict == f"All {len(right.marks)} marks passed."
    assert calibration_line(right).startswith("n = 500 held-out problems a rung") and "full harvest" in calibration_line(right)


def test_coverage_counts_the_studies(report: CalibrationReport) -> None:
    assert "95.0% of 100 studies of these organisms" in coverage_line(report)


def test_tables_show_the_result_s_numbers(report: CalibrationReport) -> None:
    table = accuracy_table(report).set_index(["rung", "method"])
    assert len(table) == len(report.rungs) * len(METHODS)
    for rung, own in report.rungs.items():
        row = table.loc[(rung, "published gate")]
        assert row["value"] == pytest.approx(100 * own.stir.right / own.stir.of)
        assert [row["low"], row["high"]] == pytest.approx([100 * bound for bound in own.stir.accuracy.bounds])
        assert row["right"] == f"{own.stir.right} of {own.stir.of} right" and f"{own.stir.won} won" in row["versus"]
    assert table.loc[("null", "vanilla"), "versus"] == ""
    assert list(gate_table(report)["wrong"]) == [each.wrong for own in report.rungs.values() for each in (*own.gate, *own.default_gate)]
    assert list(estimator_table(report)["covered"]) == [each.covered for own in report.rungs.values() for each in own.estimator]


def test_the_chart_has_a_mark_for_each_method_and_rung(report: CalibrationReport) -> None:
    figure = accuracy_chart(accuracy_table(report))
    assert [trace.name for trace in figure.data] == list(report.rungs)
    assert all(list(trace.y) == list(METHODS.values()) for trace in figure.data)
    assert len({trace.marker.symbol for trace in figure.data}) == len({trace.marker.color for trace in figure.data}) == 3
    assert figure.layout.xaxis.title.text and figure.layout.yaxis.categoryarray[-1] == "vanilla"


def test_the_shipped_result_is_shown_and_said_to_be_no_evidence(open_page: OpenPage) -> None:
    app = clean(open_page("calibration"))
    shipped = read_calibration(SHIPPED)
    assert "nothing on this page is evidence that STIR helps a real model" in texts(app)
    assert app.selectbox(key="calibration").options == ["shipped"]
    assert f"n = {shipped.problems} held-out problems" in texts(app)
    (drawn,) = [data for data in components(app) if "rungs" in data]
    assert drawn["rungs"] == list(shipped.rungs) and drawn["rows"] == instrument_rows(shipped)
    assert app.code[0].value.startswith("stir calibrate")


def test_a_result_of_one_s_own_is_offered(open_page: OpenPage, store: Path, report: CalibrationReport) -> None:
    write_calibration(store / "calibration" / "full", report)
    app = clean(open_page("calibration", calibration="calibration/full"))
    assert app.selectbox(key="calibration").options == ["shipped", "calibration/full"]
    assert "abstaining gate on null" in texts(app)
    assert app.code[0].value == f"stir calibrate --out {store / 'calibration'}"
    app.selectbox(key="calibration").select("shipped").run()
    assert read_calibration(SHIPPED).verdict in texts(clean(app))


def test_a_torn_result_is_one_line(open_page: OpenPage, store: Path) -> None:
    (store / "calibration" / "full").mkdir(parents=True)
    (store / "calibration" / "full" / "calibration.json").write_text("{}")
    app = open_page("calibration", calibration="calibration/full")
    assert not app.exception and len(app.error) == 1
