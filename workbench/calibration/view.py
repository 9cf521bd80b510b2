"""The Calibration page's sections: choice of the result, instruments by rung, accuracies, gates and estimators, and the command."""

import streamlit as st
from streamlit import column_config as cc

from stir_core.findings import CalibrationReport
from stir_core.store.calibrations import calibration_files, read_calibration
from workbench import session
from workbench.bootstrap import runs_root
from workbench.calibration import data as tables
from workbench.calibration.charts import accuracy_chart
from workbench.calibration.view_marks import mark_table
from workbench.shared.command_lines import calibrate_command
from workbench.shared.text import plain
from workbench.shared.view_charts import draw_chart
from workbench.shared.view_page import command_line
from workbench.shared.view_tables import Columns, data_table, number_column


def choose_result() -> CalibrationReport:
    """The chosen result: the shipped one, or one below the folder of runs."""
    st.info(
        "Organisms are small models, trained so that their latent modes are known. They are calibration objects: nothing on this page is "
        "evidence that STIR helps a real model."
    )
    files = calibration_files(runs_root())
    name = session.choose_one(session.CALIBRATION, "Result", list(files), width=320, help="The shipped one, and those below STIR_RUNS.")
    return read_calibration(files[name])


def instruments(report: CalibrationReport) -> None:
    """One row per instrument, one column per rung: expected, seen, pass or fail."""
    st.markdown(f"**Instruments.** {plain(report.verdict)}")
    st.caption(plain(tables.calibration_line(report)))
    mark_table(
        list(report.rungs), [rung.planted for rung in report.rungs.values()], tables.instrument_rows(report), key="calibration_marks"
    )
    st.caption(plain(f"{tables.coverage_line(report)} A dash: nothing is planted on that rung that the instrument could be judged by."))
    if "length" not in report.rungs:
        st.caption(
            plain(
                "That the confound controls flag an action of pure length is judged on the rung length only, which is not in this result; "
                "here they are judged by not flagging actions of habit, and by passing few actions where nothing is planted."
            )
        )


def accuracies(report: CalibrationReport) -> None:
    """Every method on every rung."""
    st.header("Accuracy of methods by rung", anchor=False)
    table = tables.accuracy_table(report)
    draw_chart(accuracy_chart(table), key="calibration_accuracy", alt="Accuracy of each method on each rung")
    st.caption(
        f"n = {report.problems} problems a rung. Intervals: Wilson. The oracle adds the planted direction, with the right sign, only where "
        "it is needed: the ceiling for every method that adds directions."
    )
    data_table(table, ACCURACY_COLUMNS, "Accuracy of each method on each rung")


def figures(report: CalibrationReport) -> None:
    """What gates did by the habit of the writer, and what repeated causal studies found."""
    with st.expander("Commits of the gates by the writer's habit"):
        data_table(tables.gate_table(report), GATE_COLUMNS, "Commits of both gates by the writer's habit")
    with st.expander("Repeated causal studies against the known effect"):
        data_table(tables.estimator_table(report), ESTIMATOR_COLUMNS, "Repeated causal studies against the known effect")


def result_downloads(report: CalibrationReport) -> None:
    """The command that makes such a result, and the result as a file."""
    command_line(calibrate_command(runs_root(), quick=report.quick), "Make it again (resumes if interrupted); the result appears here")
    st.download_button(
        "Result (JSON)", report.model_dump_json(indent=2), "calibration.json", "application/json", key="calibration_json", on_click="ignore"
    )


ACCURACY_COLUMNS: Columns = {
    "rung": cc.TextColumn("rung", pinned=True, width=100),
    "method": cc.TextColumn("method", width=180),
    "value": number_column("accuracy", "%.1f", "Right answers in percent.", width=70),
    "low": number_column("low", "%.1f", "Lower end of Wilson's 95 % interval.", width=56),
    "high": number_column("high", "%.1f", "Upper end.", width=56),
    "right": cc.TextColumn("right", width=130),
    "versus": cc.TextColumn("minus vanilla", help="Difference with Tango's score interval; problems won and lost.", width=290),
    "tokens": number_column("tokens", "%.1f", "Mean committed tokens of an answer.", width=60),
}
GATE_COLUMNS: Columns = {
    "rung": cc.TextColumn("rung", pinned=True, width=100),
    "gate": cc.TextColumn("gate", width=90),
    "m": number_column("m", "%d", "Control point (finished steps).", width=40),
    "wrong": number_column("wrong habit", "%d", "Answers whose writer is in the wrong habit there.", width=90),
    "fired wrong": number_column("steered", "%d", "Commits among them.", width=66),
    "mended": number_column("mended", "%d", "Commits among these after which the step was right.", width=66),
    "right": number_column("right habit", "%d", "All other answers.", width=84),
    "fired right": number_column("steered", "%d", "Commits among them.", width=66),
    "harmed": number_column("harmed", "%d", "Commits among these after which the step was wrong.", width=66),
}
ESTIMATOR_COLUMNS: Columns = {
    "rung": cc.TextColumn("rung", pinned=True, width=100),
    "action": cc.TextColumn("action", width=130),
    "effect": number_column("known effect", "%+.3f", "Share of right answers with it minus without, over all studies.", width=96),
    "studies": number_column("studies", "%d", "Each has problems of its own.", width=60),
    "problems": number_column("problems", "%d", "Of each study.", width=66),
    "rolls": number_column("rolls", "%d", "Continuations of an arm at each state.", width=48),
    "covered": number_column("covered", "%d", "Studies whose interval holds the effect that the other studies show.", width=66),
    "seen": number_column("seen", "%d", "Studies that tell the effect from 0.", width=48),
    "first": number_column("first", "%d", "Studies that rank this action first.", width=48),
}
