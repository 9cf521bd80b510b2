"""Marks of latent reasoners: each can be missed, and rests on the floor of its own setting."""

from typing import Any

import pytest

from stir_core.calibration.latents import calibrate_latents, latent_marks
from stir_core.errors import StoreError
from stir_core.evaluate.statistics import wilson
from stir_core.findings import LatentReport, LatentRow


def row(how: str, right: int, *, latents: float = 6.0, passes: float = 10.0) -> LatentRow:
    costs: dict[str, Any] = {"tokens": 9.0, "positions": 20.0, "seconds": 1.0, "passes": passes, "latents": latents}
    return LatentRow(how=how, problems=100, accuracy=wilson(right, 100), by_count={2: right / 100}, **costs)


def report(
    strategy: str = "atp", own: int = 97, zero: int = 10, none: int = 9, stop: int = 100, passes: float = 14.0, **more: Any
) -> LatentReport:
    rows = (row("own", own, latents=0.0 if strategy in ("cot", "answer_only") else 6.0), row("zero", zero), row("none", none))
    rows += (row("published", own, passes=passes),)
    facts: dict[str, Any] = {"stage": "sft", "setting": "easy", "seed": 0, "options": {}, "weights": "0", "split": "eval"} | more
    return LatentReport(strategy=strategy, rows=rows, exact_stop=wilson(stop, 100) if strategy == "atp" else None, **facts)


def missed(found: LatentReport, *others: LatentReport) -> list[str]:
    return [mark.instrument for mark in latent_marks("x", found, [found, *others]) if not mark.passed]


@pytest.mark.parametrize(
    ("changed", "instrument"),
    [
        ({"own": 94}, "answers with no written step"),
        ({"zero": 15}, "latents: zero"),
        ({"none": 15}, "latents: none"),
        ({"stop": 89}, "stop head"),
        ({"passes": 10.0}, "passes"),
    ],
)
def test_every_mark_can_be_missed_and_alone(changed: dict[str, Any], instrument: str) -> None:
    assert missed(report()) == []
    assert missed(report(**changed)) == [instrument]


def test_the_floor_is_the_answer_alone_where_it_was_trained_on_the_same_chains() -> None:
    at_15 = report(zero=15)
    assert missed(at_15, report("answer_only", own=14)) == []
    assert missed(at_15, report("answer_only", own=14, setting="hard")) == ["latents: zero"]
    assert list(latent_marks("floor", report("answer_only", own=14), [])) == []
    assert [mark.instrument for mark in latent_marks("cot", report("cot"), [])] == ["answers with every step written"]


def test_what_ships_is_judged() -> None:
    found = calibrate_latents(["cot", "sim_cot"], n=10)
    assert list(found.reports) == ["cot", "sim_cot"]
    passed = {(mark.rung, mark.instrument): mark.passed for mark in found.marks}
    assert passed["cot", "answers with every step written"] and passed["sim_cot", "answers with no written step"]
    with pytest.raises(StoreError, match="cocoa is no folder, nor a reasoner that comes with the package"):
        calibrate_latents(["cocoa"])
