"""What a trained latent reasoner has to show on chains whose every step is known, beside what it shows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stir_core.errors import DataError
from stir_core.evaluate.latents import answer_modular, evaluate_latents, held_out_chains
from stir_core.evaluate.statistics import mcnemar
from stir_core.findings import LatentCalibration, LatentReport, LatentRow, Mark, p_text
from stir_core.latent.training import load_reasoner
from stir_core.records import OnProgress, Progress
from stir_core.store.latents import different_folders, latent_facts
from stir_core.tasks.modular import modular_setting

FLOOR = "answer_only"
"""The strategy without any reasoning: what an answer is worth whose latents hold nothing."""
NEAR = 0.05
"""What a control may lie above that floor."""
SURE = 0.01
"""Largest p with which reinforcement is better than supervised training."""


def calibrate_latents(folders: Sequence[Path | str], *, n: int = 500, report: OnProgress = lambda progress: None) -> LatentCalibration:
    """Evaluate trained reasoners, and judge them.

    Args:
        folders: of finished trainings, or names of reasoners that come with the package.
        n: problems for each number of steps.

    Raises:
        StoreError: no such folder or name, or the same twice.
        DataError: a folder holds no finished training, or one on a file; or there is nothing to judge.
    """
    places: dict[str, Path] = {}
    for folder in different_folders(folders):
        _ = load_reasoner(folder).chains  # refuses one that was trained on a file
        places[folder.name if folder.name not in places else str(folder)] = folder
    reports: dict[str, LatentReport] = {}
    for name, folder in places.items():
        reports[name] = evaluate_latents(folder, n=n)
        report(Progress("latents", len(reports), len(places), "reasoners"))
    marks = [mark for name, each in reports.items() for mark in latent_marks(name, each, list(reports.values()))]
    marks += reinforced_marks(places, n=n)
    if not marks:
        raise DataError(f"there is nothing to judge: {FLOOR} is the floor of other reasoners, name some of them, too")
    return LatentCalibration(n=n, reports=reports, marks=tuple(marks))


def reinforced_marks(places: Mapping[str, Path], *, n: int) -> Iterator[Mark]:
    """Reinforced reasoners against those with as many supervised updates from the same start, on the same problems.

    Args:
        places: folders of finished trainings on chains by name; a reinforced one without such a partner has no mark.
        n: problems for each number of steps.
    """
    facts = {name: latent_facts(folder) for name, folder in places.items()}
    for name, rl in facts.items():
        if rl["stage"] != "rl":
            continue
        updates = rl["rl"]["iterations"] * rl["rl"]["updates"]
        for other, sft in facts.items():
            alike = all(rl[key] == sft[key] for key in ("strategy", "setting", "start"))
            if sft["stage"] == "sft" and alike and _last_step(places[other]) == updates:
                pairs = list(zip(_right(places[name], n), _right(places[other], n), strict=True))
                won, lost = pairs.count((True, False)), pairs.count((False, True))
                p = mcnemar(won, lost)
                yield Mark(
                    rung=name,
                    instrument="reinforcement",
                    expected=f"more right than {other}, with as many supervised updates ({updates}), p < {SURE:g}",
                    seen=f"{won} won, {lost} lost of {len(pairs)}, p {p_text(p)}",
                    passed=won > lost and p < SURE,
                )


def _last_step(folder: Path) -> int:
    return json.loads((folder / "training.jsonl").read_text("utf-8").splitlines()[-1])["step"]


def _right(folder: Path, n: int) -> list[bool]:
    """Whether each held-out problem is answered rightly."""
    trained = load_reasoner(folder)
    problems = {count: chains for count, chains in held_out_chains(trained.chains, n, 0).items() if count in trained.chains.counts}
    return [each.right for each in answer_modular(trained, problems)]


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
