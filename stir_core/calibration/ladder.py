"""Harvest, steer and judge every rung of the calibration ladder, and compare with what a sound instrument has to show there."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stir_core.calibration.estimator import StudyDesign, check_estimator
from stir_core.calibration.marks import marks_of
from stir_core.calibration.simulation import DESIGNS, simulated_coverage
from stir_core.calibration.truth import (
    control_counts,
    cosines_by_place,
    gate_auc,
    gate_bins,
    gate_counts,
    pick_counts,
    planted_cosines,
    retrieval,
)
from stir_core.config import RunConfig, config_from, section_from, with_changes
from stir_core.errors import ModelError
from stir_core.evaluate.habits import KnownPoint, chains_of, known_points
from stir_core.evaluate.runner import evaluate, settle
from stir_core.findings import CalibrationReport, EvaluationReport, Mark, RungMethod, RungReport
from stir_core.models.catalogue import catalogue
from stir_core.models.loading import LoadedModel, model_of
from stir_core.models.workers import WorkerPool
from stir_core.organisms.planted import Organism, organism_of
from stir_core.organisms.rungs import RUNGS
from stir_core.records import OnProgress
from stir_core.requests import EvaluationRequest
from stir_core.stages.pipeline import begin_from, run_stages, short_environment
from stir_core.store.calibrations import FILE, write_calibration
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.jsonl import check_free
from stir_core.store.locks import one_writer
from stir_core.store.runs import Run
from stir_core.tasks import load_problems
from stir_core.version import VERSION

ARMS = {
    "vanilla": "vanilla",
    "stir": "stir",
    "static": "static",
    "noise": "stir:noise=matched,variant=random_vector",
    "shuffled": "stir:library=shuffled",
    "oracle": "oracle",
}
"""Methods on the published run, by their field of :class:`~stir_core.findings.RungReport`."""
CALIBRATED = {
    "mining": {"equal_numbers": True, "top_pairs": 10_000},
    "basis": {"similarity": "point_centred"},
    "gate": {"rule": "calibrated"},
}
"""The settings of the gate that abstains; every pair is kept, since margins on the best pairs look better than they are."""
PREFIX = "organism:"
"""Of the names of embedded organisms."""
LABEL = "calibration"
SIMULATION = "simulation"
"""Stands for the rung in the mark of the simulated studies."""
DESIGN, QUICK_DESIGN = StudyDesign(20, 25, 2), StudyDesign(6, 10, 2)
"""Causal studies of a rung; with ``quick``."""
SIMULATED, QUICK_SIMULATED = 250, 50
"""Simulated studies of each design; with ``quick``."""


def rung_config(model: str, problems: int, rollouts: int) -> RunConfig:
    """The published settings on an organism."""
    return config_from(
        {
            "model": {"name": model},
            "task": {"name": "chain", "n_train": problems, "n_eval": 0},
            "rollouts": {"k": rollouts, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 90},
            "mining": {"control_points": 5, "layers": [1]},
            "decode": {"max_new_tokens": 90},
            "gate": {"previews": "all"},  # the margins of all candidates are judged
        }
    )


def measure_rung(
    name: str, out: Path, *, n: int, quick: bool = False, report: OnProgress = lambda progress: None, pool: WorkerPool | None = None
) -> RungReport:
    """Harvest an organism's runs below ``out`` and answer ``n`` held-out problems with every method; resumes.

    Args:
        name: model name, e.g. ``organism:two_habits``, or the folder of a trained organism.
        quick: a smaller harvest.
        pool: workers that decode in this process's place.
    """
    organism = organism_of(name)
    published = rung_config(name, *((24, 8) if quick else (48, 16)))
    model = model_of(with_changes(published.model, device="cpu"), None, pool)
    base = run_stages(published, out / "published", model=model, report=report)
    calibrated = with_changes(published, **CALIBRATED)
    begin_from(base, calibrated, out / "calibrated", model)
    runs = {"published": base, "calibrated": run_stages(calibrated, out / "calibrated", model=model, report=report)}
    arms = {
        **_answered(runs["published"], model, ARMS, n, report),
        "default": _answered(runs["calibrated"], model, {"vanilla": "vanilla", "default": "stir"}, n, report)["default"],
    }
    library, chains = base.library(selected=False), chains_of(base.problems())
    cosines = planted_cosines(library.entries, library.actions, chains, organism)
    points = {key: _known(run, organism) for key, run in runs.items()}
    decides, told = organism.rung.right is not None, retrieval(base, organism, chains)
    actions = library.actions[[entry.kind == "corrective" for entry in library.entries]]
    return RungReport(
        rung=organism.rung.name,
        planted=organism.rung.planted,
        sound=organism.rung.sound,
        weights_sha256=model.identity.weights_sha256,
        **arms,
        gate=gate_counts(points["published"]),
        default_gate=gate_counts(points["calibrated"]),
        gate_auc=gate_auc(points["published"]) if decides else None,
        gate_bins=gate_bins(points["published"]) if decides else (),
        planted_cosine=float(np.median(list(cosines.values()))) if cosines else None,
        agreement=cosines_by_place(library.entries, cosines),
        picks=pick_counts(base.library(), chains, organism),
        retrieval_auc=told.auc if told else None,
        retrieval=told,
        controls=control_counts(library, base.controls(), organism),
        estimator=check_estimator(
            model,
            organism,
            published,
            out / "causal" / f"{base.digest('actions')}.jsonl",  # of these weights, this layer and these norms
            QUICK_DESIGN if quick else DESIGN,
            layer=base.manifest("states").layers[0],
            norm=float(np.median(np.linalg.norm(actions, axis=1))) if len(actions) else 1.0,
            report=report,
        ),
        margins=tuple(runs["calibrated"].margins()),
    )


def _answered(run: Run, model: LoadedModel, arms: dict[str, str], n: int, report: OnProgress) -> dict[str, RungMethod]:
    request = EvaluationRequest(methods=tuple(name for name in arms.values() if name != "vanilla"), n=n, label=LABEL, rows=64)
    spec, problems = settle(run, model.identity, request, command=None, environment=short_environment())
    return counts_of(evaluate(run, model, spec, problems, report=report)[0], arms)


def counts_of(report: EvaluationReport, arms: dict[str, str]) -> dict[str, RungMethod]:
    """Right answers of each method, and what it won and lost, by a short name."""
    methods = {method.name: method for method in report.methods}
    return {
        arm: RungMethod(
            method=name,
            right=(own := methods[name]).right,
            of=own.answers,
            accuracy=own.accuracy,
            won=len(own.versus.won) if own.versus else 0,
            lost=len(own.versus.lost) if own.versus else 0,
            difference=own.versus.difference if own.versus else None,
            p=own.versus.p if own.versus else None,
            tokens=own.committed,
        )
        for arm, name in arms.items()
    }


def _known(run: Run, organism: Organism) -> list[KnownPoint]:
    folder = EvaluationFolder(run, LABEL)
    traces = [answer.trace for answer in folder.answers("stir") if answer.trace is not None]
    return known_points(traces, chains_of(folder.problems()), organism, run.config.mining.control_points)


def organisms_named(rungs: Sequence[str]) -> dict[str, str]:
    """Names of the models to judge, by rung.

    Args:
        rungs: embedded rungs, with or without ``organism:``, or folders of organisms; none: all embedded ones. A folder that is named like
            an embedded rung is written as a path, e.g. ``./null``.

    Raises:
        ModelError: a name that is no organism, or two organisms of one rung.
    """
    embedded = {row.name.removeprefix(PREFIX) for row in catalogue() if row.name.startswith(PREFIX)}
    models: dict[str, str] = {}
    for name in rungs or [rung for rung in RUNGS if rung in embedded]:
        rung = name.removeprefix(PREFIX)
        if rung in RUNGS and rung not in embedded and not Path(name).is_dir():
            raise ModelError(f"the organism {rung} is not embedded: `stir organism train {rung} --out DIR`, then `stir calibrate DIR`")
        model = name if rung not in embedded and Path(name).is_dir() else f"{PREFIX}{rung}"
        own = organism_of(model).rung.name
        if models.setdefault(own, model) != model:
            raise ModelError(f"{models[own]} and {model} are both of the rung {own}: judge each in an --out of its own")
    return models


def calibrate(
    rungs: Sequence[str],
    out: Path,
    *,
    n: int | None = None,
    quick: bool = False,
    report: OnProgress = lambda progress: None,
    pool: WorkerPool | None = None,
) -> CalibrationReport:
    """Measure organisms, mark the instruments, and write the result into ``out``, beside a folder for each rung; see :func:`measure_rung`.

    Args:
        rungs: as in :func:`organisms_named`.
        out: folder; the smaller harvest gets a folder of its own in it.
        n: held-out problems; 500 if not given, with ``quick`` 40.
        pool: workers that decode in this process's place.

    Raises:
        ModelError: a name that is no organism, or two organisms of one rung.
        ConfigError: no problems.
        DataError: more problems than there are.
    """
    n = (40 if quick else 500) if n is None else n
    models = organisms_named(rungs)  # a wrong name or number is refused before anything is harvested
    load_problems("chain", section_from(EvaluationRequest, {"n": n}).split, n=n)
    out = out / ("quick" if quick else "full")
    with one_writer(out / "calibration", of=out, owns=(out,)):
        check_free(out / FILE, CalibrationReport)
        measured: dict[str, RungReport] = {}
        for name in models.values():
            place = name.removeprefix(PREFIX) if name.startswith(PREFIX) else Path(name).resolve().name
            rung = measure_rung(name, out / place, n=n, quick=quick, report=report, pool=pool)
            measured[rung.rung] = rung
        checks = [check for rung in measured.values() for check in rung.estimator]
        studies = sum(check.studies for check in checks)
        of_each, low, high = (QUICK_SIMULATED, 92, 98) if quick else (SIMULATED, 93, 97)
        simulated = simulated_coverage(of_each)
        covers = Mark(
            rung=SIMULATION,
            instrument="causal interval",
            expected=f"{low} to {high} %",
            seen=f"{simulated:.1%} of {of_each * len(DESIGNS)} studies",
            passed=low <= 100 * simulated <= high,
        )
        marks = [*(mark for rung in measured.values() for mark in marks_of(rung)), covers]
        result = CalibrationReport(
            problems=n,
            quick=quick,
            version=VERSION,
            rungs=measured,
            causal_coverage=sum(check.covered for check in checks) / studies if studies else None,
            simulated_coverage=simulated,
            passed=tuple(mark for mark in marks if mark.passed),
            failed=tuple(mark for mark in marks if not mark.passed),
        )
        write_calibration(out, result)
        return result
