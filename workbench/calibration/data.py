"""A result of ``stir calibrate`` as tables: instruments by rung, methods by rung, gates and estimators."""

from typing import TypedDict

import pandas as pd

from stir_core.findings import CalibrationReport, RungMethod, RungReport
from workbench.shared.intervals import with_interval

METHODS = {
    "vanilla": "vanilla",
    "stir": "published gate",
    "default": "abstaining gate",
    "static": "static vector",
    "noise": "noise of the actions' norm",
    "shuffled": "shuffled labels",
    "oracle": "oracle",
}
"""Fields of a rung's report that hold a method's answers, and the name that a reader sees."""


class MarkCell(TypedDict):
    """What one instrument had to show on one rung, and what was seen."""

    expected: str
    seen: str
    passed: bool
    why: str


class InstrumentRow(TypedDict):
    """An instrument on every rung; ``None``: nothing is planted there that it could be judged by."""

    instrument: str
    cells: list[MarkCell | None]


def methods_of(rung: RungReport) -> dict[str, RungMethod]:
    """A rung's methods by the name that a reader sees."""
    return {name: getattr(rung, field) for field, name in METHODS.items()}


def calibration_line(report: CalibrationReport) -> str:
    """The size of a result in one line."""
    how = "smaller harvest (--quick)" if report.quick else "full harvest"
    rungs = ", ".join(report.rungs)
    return f"n = {report.problems} held-out problems a rung, the same for all methods · {how} · rungs {rungs} · version {report.version}"


def coverage_line(report: CalibrationReport) -> str:
    """How often causal intervals hold the known effect: on these organisms, and in simulation."""
    studies = sum(check.studies for rung in report.rungs.values() for check in rung.estimator)
    found = [] if report.causal_coverage is None else [f"{report.causal_coverage:.1%} of {studies} studies of these organisms"]
    simulated = [mark for mark in report.marks if mark.rung not in report.rungs]
    found += [f"{mark.seen} in simulation (expected: {mark.expected}; {'pass' if mark.passed else 'FAIL'})" for mark in simulated]
    return f"Causal intervals hold the known effect in {', and in '.join(found)}."


def instrument_rows(report: CalibrationReport) -> list[InstrumentRow]:
    """One row per instrument, one cell per rung of the report."""
    marks = {(mark.instrument, mark.rung): mark for mark in report.marks if mark.rung in report.rungs}
    rows: list[InstrumentRow] = []
    for instrument in dict.fromkeys(instrument for instrument, _ in marks):
        own = [marks.get((instrument, rung)) for rung in report.rungs]
        cells = [MarkCell(expected=m.expected, seen=m.seen, passed=m.passed, why=m.why) if m else None for m in own]
        rows.append({"instrument": instrument, "cells": cells})
    return rows


def accuracy_table(report: CalibrationReport) -> pd.DataFrame:
    """One row for each method on each rung: accuracy in percent with its Wilson interval."""
    rows = []
    for rung, own in report.rungs.items():
        for name, method in methods_of(own).items():
            low, high = method.accuracy.bounds
            counts = f"{method.right} of {method.of} right"
            versus = f"{with_interval(method.difference, '+.1%')}, {method.won} won, {method.lost} lost" if method.difference else ""
            rows.append((rung, name, 100 * method.accuracy.value, 100 * low, 100 * high, counts, versus, method.tokens))
    return pd.DataFrame(rows, columns=["rung", "method", "value", "low", "high", "right", "versus", "tokens"])


def gate_table(report: CalibrationReport) -> pd.DataFrame:
    """One row for each gate, rung and control point: commits where the writer is in the wrong habit, and where not."""
    rows = [
        (rung, gate, c.m, c.wrong, c.fired_wrong, c.mended, c.right, c.fired_right, c.harmed)
        for rung, own in report.rungs.items()
        for gate, counts in (("published", own.gate), ("abstaining", own.default_gate))
        for c in counts
    ]
    return pd.DataFrame(rows, columns=["rung", "gate", "m", "wrong", "fired wrong", "mended", "right", "fired right", "harmed"])


def estimator_table(report: CalibrationReport) -> pd.DataFrame:
    """One row for each action and rung: repeated causal studies against the known effect."""
    rows = [
        (rung, c.action, c.effect, c.studies, c.problems, c.rolls, c.covered, c.seen, c.first)
        for rung, own in report.rungs.items()
        for c in own.estimator
    ]
    return pd.DataFrame(rows, columns=["rung", "action", "effect", "studies", "problems", "rolls", "covered", "seen", "first"])
