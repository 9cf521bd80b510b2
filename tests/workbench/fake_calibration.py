"""A calibration in which every instrument shows what it should, without a model; single figures may be changed."""

from typing import Any

from stir_core.calibration.estimator import PLANTED, RANDOM
from stir_core.calibration.ladder import ARMS
from stir_core.calibration.marks import marks_of
from stir_core.evaluate.statistics import wilson
from stir_core.findings import (
    Bin,
    CalibrationReport,
    ControlCounts,
    Estimate,
    EstimatorCheck,
    GateCounts,
    PickCount,
    RungMethod,
    RungReport,
    Separation,
)
from stir_core.organisms.rungs import RUNGS


def fake_arm(name: str, points: int = 0, of: int = 500, p: float | None = None) -> RungMethod:
    """A method that gets half of the problems right, and so many more percent."""
    gap = round(points / 100 * of)
    difference = Estimate(value=gap / of, low=gap / of - 0.01, high=gap / of + 0.01)
    versus = {"difference": difference, "p": (1.0 if not gap else 1e-9) if p is None else p} if name != "vanilla" else {}
    right, nothing = of // 2 + gap, {"difference": None, "p": None}
    return RungMethod(
        method=name, right=right, of=of, accuracy=wilson(right, of), won=max(gap, 0), lost=max(-gap, 0), tokens=20.0, **(nothing | versus)
    )


def fake_rung(name: str, *, of: int = 500, **changes: Any) -> RungReport:
    """A rung on which every instrument shows what it should; a number is a method's points above vanilla."""
    decides, helped = RUNGS[name].right is not None, name in ("one_habit", "two_habits")
    points = {"stir": 50, "default": 40, "oracle": 50, "static": 5, "shuffled": 30} if helped else {"stir": -20, "oracle": 50 * decides}
    points |= {key: value for key, value in changes.items() if key in (*ARMS, "default")}
    gate = GateCounts(m=1, wrong=50, fired_wrong=50, mended=50, right=50, fired_right=0, harmed=0)
    bins = [Bin(low=x, high=x, points=9, predicted=x, measured=Estimate(value=x)) for x in (0.0, 1.0)]
    check = {"effect": 0.3, "studies": 20, "problems": 25, "rolls": 4, "covered": 19}
    checks = [EstimatorCheck(action=RANDOM, seen=1, first=0, **check)]
    checks += [EstimatorCheck(action=PLANTED, seen=20, first=20, **check)] if decides else []
    controls = {"length": 80 if name == "length" else 10, "labels": 10, "passes": 5, "cannot_tell": 5}
    found = {
        "gate_auc": 0.95 if decides else None,
        "gate_bins": tuple(bins),
        "gate": (gate,),
        "default_gate": (gate,),
        "planted_cosine": 0.9 if decides else None,
        "picks": (PickCount(kind="add", towards="P", picks=20), PickCount(kind="sub", towards="Q", picks=20)) if decides else (),
        "retrieval_auc": 0.9 if decides else None,
        "retrieval": Separation(readout="key margin", layer=None, states=9, problems=9, pairs=9, auc=0.9) if decides else None,
        "controls": ControlCounts(actions=100, tone_cosine=0.2, **controls),
        "estimator": tuple(checks),
        "agreement": (),
        "margins": (),
    }
    found |= {key: value for key, value in changes.items() if key in found}
    arms = {key: fake_arm(key, points.get(key, 0), of) for key in (*ARMS, "default")}
    told = RUNGS[name]
    return RungReport(rung=name, planted=told.planted, sound=told.sound, weights_sha256="0", **arms, **found)


def fake_report(*rungs: RungReport) -> CalibrationReport:
    """A full calibration of these rungs."""
    marks = [mark for each in rungs for mark in marks_of(each)]
    return CalibrationReport(
        problems=500,
        quick=False,
        version="1",
        rungs={each.rung: each for each in rungs},
        causal_coverage=0.95,
        simulated_coverage=0.95,
        passed=tuple(mark for mark in marks if mark.passed),
        failed=tuple(mark for mark in marks if not mark.passed),
    )
