"""Harvest, steer and judge every rung of the calibration ladder, and compare with what a sound instrument has to show there."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stir_core.calibrate.truth import chains_of, gate_auc, gate_counts, known_points, planted_cosines
from stir_core.config import RunConfig, config_from, with_changes
from stir_core.evaluate.runner import evaluate, settle
from stir_core.findings import CalibrationReport, EvaluationReport, GateCounts, Mark, MethodReport, RungReport
from stir_core.models.catalogue import resolve
from stir_core.models.loading import LoadedModel, load_model
from stir_core.organisms.planted import Organism, organism_of
from stir_core.records import OnProgress
from stir_core.requests import EvaluationRequest
from stir_core.stages.pipeline import begin_from, run_stages, short_environment
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.runs import Run

ARMS = {
    "vanilla": "vanilla",
    "stir": "stir",
    "static": "static",
    "noise": "stir:noise=matched,variant=random_vector",
    "library_shuffled": "stir:library=shuffled",
    "oracle": "oracle",
}
"""Methods on the published run, by a short name."""
CALIBRATED = {
    "mining": {"equal_numbers": True, "top_pairs": 10_000},
    "basis": {"similarity": "point_centred"},
    "gate": {"rule": "calibrated"},
}
"""The settings of the gate that abstains; every pair is kept, since margins on the best pairs look better than they are."""
LABEL = "calibration"


def rung_config(model: str, problems: int, rollouts: int) -> RunConfig:
    """The published settings on an organism."""
    return config_from(
        {
            "model": {"name": model},
            "task": {"name": "chain", "n_train": problems, "n_eval": 0},
            "rollouts": {"k": rollouts, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 90},
            "mining": {"control_points": 5, "layers": [1]},
            "decode": {"max_new_tokens": 90},
        }
    )


def measure_rung(name: str, out: Path, *, n: int, quick: bool = False, report: OnProgress = lambda progress: None) -> RungReport:
    """Harvest an organism's runs below ``out`` and answer ``n`` held-out problems with every method; resumes.

    Args:
        name: model name, e.g. ``organism:two_habits``, or the folder of a trained organism.
        quick: a smaller harvest.
    """
    model = load_model(name, device="cpu")
    organism = organism_of(model)
    published = rung_config(name, *((24, 8) if quick else (48, 16)))
    base = run_stages(published, out / "published", model=model, report=report)
    calibrated = with_changes(published, **CALIBRATED)
    begin_from(base, calibrated, out / "calibrated", model)
    runs = {"published": base, "calibrated": run_stages(calibrated, out / "calibrated", model=model, report=report)}
    answered = {
        key: _answered(run, model, tuple(ARMS.values())[1:] if key == "published" else ("stir",), n, report) for key, run in runs.items()
    }
    library, chains = base.library(selected=False), chains_of(base.problems())
    cosines = planted_cosines(library.entries, library.actions, chains, organism)
    gates = {key: _gate(runs[key], organism) for key in ("published", "calibrated")}
    return RungReport(
        rung=organism.rung.name,
        planted=organism.rung.planted,
        sound=organism.rung.sound,
        weights_sha256=model.identity.weights_sha256,
        **answered,
        gate=gates["published"][0],
        calibrated_gate=gates["calibrated"][0],
        gate_auc=gates["published"][1],
        planted_cosine=float(np.median(list(cosines.values()))) if cosines else None,
        margins=tuple(runs["calibrated"].margins()),
    )


def _answered(run: Run, model: LoadedModel, methods: Sequence[str], n: int, report: OnProgress) -> EvaluationReport:
    request = EvaluationRequest(methods=tuple(methods), n=n, label=LABEL, rows=64)
    spec, problems = settle(run, model.identity, request, command=None, environment=short_environment())
    return evaluate(run, model, spec, problems, report=report)[0]


def _gate(run: Run, organism: Organism) -> tuple[tuple[GateCounts, ...], float | None]:
    if organism.rung.right is None:
        return (), None
    folder = EvaluationFolder(run, LABEL)
    traces = [answer.trace for answer in folder.answers("stir") if answer.trace is not None]
    points = known_points(traces, chains_of(folder.problems()), organism, run.config.mining.control_points)
    return gate_counts(points), gate_auc(points)


def method_of(report: EvaluationReport, name: str) -> MethodReport:
    """One method of a report."""
    return next(method for method in report.methods if method.name == name)


def marks_of(rung: RungReport) -> list[Mark]:
    """What has to be seen on a rung, and what was."""
    vanilla, stir, static, noise, _, oracle = (method_of(rung.published, name) for name in ARMS.values())
    calibrated = method_of(rung.calibrated, "stir")
    marks: list[Mark] = []

    def mark(instrument: str, expected: str, seen: str, passed: bool) -> None:
        marks.append(Mark(rung=rung.rung, instrument=instrument, expected=expected, seen=seen, passed=passed))

    def points(method: MethodReport) -> float:
        return 100 * (method.accuracy.value - vanilla.accuracy.value)

    def shown(method: MethodReport) -> str:
        versus = method.versus
        return f"{points(method):+.1f} points" + (f" ({len(versus.won)} / {len(versus.lost)})" if versus else "")

    if rung.rung in ("one_habit", "two_habits"):
        assert stir.versus is not None and noise.versus is not None
        level = 1e-6 if stir.answers >= 200 else 1e-3  # what so few problems can show
        enough = points(stir) >= 20 and stir.versus.p < level
        mark("published STIR", f"at least +20 points, p < {level:g}", f"{shown(stir)}, p {stir.versus.p:.1g}", enough)
        mark("oracle", "at least 97 % right", f"{oracle.accuracy.value:.1%}", oracle.accuracy.value >= 0.97)
        mark("actions", "cosine with the planted direction at least 0.8", _number(rung.planted_cosine), (rung.planted_cosine or 0) >= 0.8)
        mark("gate", "ROC area at least 0.8", _number(rung.gate_auc), (rung.gate_auc or 0) >= 0.8)
        mark("noise of the actions' norm", "no effect (p >= 0.05)", f"{shown(noise)}, p {noise.versus.p:.1g}", noise.versus.p >= 0.05)
        mark("abstaining gate", "at least +25 points", shown(calibrated), points(calibrated) >= 25)
    if rung.rung == "two_habits":
        mark("static vector", "at least 20 points below the published gate", shown(static), points(stir) - points(static) >= 20)
    if rung.rung in ("hidden_kind", "null", "text_borne", "length"):
        mark("abstaining gate", "harms by less than 3 points", shown(calibrated), points(calibrated) > -3)
    return marks


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def calibrate(
    names: Sequence[str],
    out: Path,
    *,
    n: int,
    quick: bool = False,
    report: OnProgress = lambda progress: None,
) -> CalibrationReport:
    """Measure organisms, each in a folder of its own below ``out``, and mark the instruments; see :func:`measure_rung`."""
    for name in names:  # a wrong name is refused before anything is harvested
        resolve(name)
    rungs: dict[str, RungReport] = {}
    for name in names:
        rung = measure_rung(name, out / Path(name.rpartition(":")[2]).name, n=n, quick=quick, report=report)
        rungs[rung.rung] = rung
    marks = [mark for rung in rungs.values() for mark in marks_of(rung)]
    return CalibrationReport(problems=n, rungs=rungs, marks=tuple(marks))
