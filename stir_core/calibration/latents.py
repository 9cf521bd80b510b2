"""What a trained latent reasoner has to show on chains whose every step is known, beside what it shows."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from stir_core.evaluate.latents import evaluate_latents
from stir_core.findings import LatentCalibration, LatentReport, LatentRow, Mark
from stir_core.records import OnProgress, Progress
from stir_core.store.latents import different_folders
from stir_core.tasks.modular import modular_setting

FLOOR = "answer_only"
"""The strategy without any reasoning: what an answer is worth whose latents hold nothing."""
NEAR = 0.05
"""What a control may lie above that floor."""


def calibrate_latents(folders: Sequence[Path | str], *, n: int = 500, report: OnProgress = lambda progress: None) -> LatentCalibration:
    """Evaluate trained reasoners, and judge them.

    Args:
        folders: of finished trainings, or names of reasoners that come with the package.
        n: problems for each number of steps.

    Raises:
        StoreError: no such folder or name, or the same twice.
        DataError: a folder holds no finished training.
    """
    reports: dict[str, LatentReport] = {}
    for folder in different_folders(folders):
        reports[folder.name if folder.name not in reports else str(folder)] = evaluate_latents(folder, n=n)
        report(Progress("latents", len(reports), len(folders), "reasoners"))
    marks = tuple(mark for name, each in reports.items() for mark in latent_marks(name, each, list(reports.values())))
    return LatentCalibration(n=n, reports=reports, marks=marks)


def latent_marks(name: str, report: LatentReport, others: Sequence[LatentReport]) -> Iterator[Mark]:
    """All marks of one training.

    Args:
        others: all that were evaluated, among which :data:`FLOOR` of the same setting is the floor; without it chance is.
    """
    rows = {row.how: row for row in report.rows}
    own = rows["own"]
    if report.strategy == FLOOR:
        return
    thinks = own.latents > 0
    what = "answers with no written step" if thinks else "answers with every step written"
    yield Mark(
        rung=name, instrument=what, expected="at least 95 % right", seen=_shown(own), passed=own.accuracy.value >= 0.95, why=_weakest(own)
    )
    if not thinks:
        return
    floor, called = _floor(report, others)
    for how in ("zero", "none"):
        seen = rows[how].accuracy.value
        expected = f"at most 5 points above {called} ({floor:.1%})"
        yield Mark(rung=name, instrument=f"latents: {how}", expected=expected, seen=_shown(rows[how]), passed=seen <= floor + NEAR)
    if report.exact_stop is not None and "published" in rows:
        exact, fewer = report.exact_stop, rows["published"].passes - own.passes
        yield Mark(rung=name, instrument="stop head", expected="exact in at least 90 %", seen=f"{exact:.1%}", passed=exact.value >= 0.9)
        seen = f"{own.passes:.1f} against {rows['published'].passes:.1f} an answer"
        yield Mark(rung=name, instrument="passes", expected="fewer than with every slot run", seen=seen, passed=fewer > 0)


def _floor(report: LatentReport, others: Sequence[LatentReport]) -> tuple[float, str]:
    for other in others:
        if (other.strategy, other.setting) == (FLOOR, report.setting):
            return other.rows[0].accuracy.value, FLOOR
    return 1 / modular_setting(report.setting).modulus, "chance"


def _shown(row: LatentRow) -> str:
    return f"{row.accuracy:.1%} of {row.problems}"


def _weakest(row: LatentRow) -> str:
    """Which problems it is right on, where that differs."""
    return ", ".join(f"{count} operations {share:.0%}" for count, share in row.by_count.items()) + "."
