"""Marks of latent reasoners: each can be missed, and rests on the floor of its own setting."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stir_core.calibration.latents import calibrate_latents, latent_marks, reinforced_marks
from stir_core.config import with_changes
from stir_core.errors import DataError, StoreError
from stir_core.evaluate.statistics import wilson
from stir_core.findings import LatentReport, LatentRow
from stir_core.latent.rl import reinforce
from stir_core.latent.training import HEADS, train_latent
from stir_core.store.latents import latent_folder
from tests.latent.toys import RECIPE


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


def test_reinforcement_is_judged_against_as_many_supervised_updates(tmp_path: Path) -> None:
    start = train_latent("atp", tmp_path / "start", recipe=RECIPE)
    on = train_latent("atp", tmp_path / "sft", start=start, recipe=RECIPE)  # two steps, its last phase
    longer = train_latent("atp", tmp_path / "longer", start=start, recipe=with_changes(RECIPE, final=3))
    small = {"iterations": 1, "questions": 2, "answers": 2, "updates": 2}
    rl = reinforce(start, tmp_path / "rl", options=small)
    places = {folder.name: folder for folder in (start, on, longer, rl, latent_folder("atp"))}
    (mark,) = reinforced_marks(places, n=2)
    assert (mark.rung, mark.passed) == ("rl", False)
    assert mark.expected.startswith("more right than sft, with as many supervised updates (2)")
    assert mark.seen == "0 won, 0 lost of 6, p 1.000"  # neither has learned anything
    for name in ("model.safetensors", HEADS):  # what answers all problems in the place of the reinforced one
        shutil.copyfile(places["atp"] / name, rl / name)
    for name in ("config.json", "training.json"):
        (rl / name).write_text((places["atp"] / name).read_text())
    facts = json.loads((on / "training.json").read_text())
    learned = json.loads((rl / "training.json").read_text())
    (rl / "training.json").write_text(json.dumps(learned | {"stage": "rl", "start": facts["start"], "rl": small | {"frozen_table": False}}))
    (mark,) = reinforced_marks(places, n=4)
    assert mark.passed and mark.seen.startswith("12 won, 0 lost of 12, p < 0.001")


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    floor = train_latent("answer_only", tmp_path / "floor", recipe=RECIPE)
    with pytest.raises(DataError, match="there is nothing to judge: answer_only is the floor"):
        calibrate_latents([floor], n=1)
    facts = json.loads((floor / "training.json").read_text()) | {"data": {"name": "train.txt", "sha256": "0", "longest": 2}}
    (floor / "training.json").write_text(json.dumps(facts | {"setting": "train.txt"}))
    with pytest.raises(DataError, match=r"trained on train\.txt, not on chains"):
        calibrate_latents([floor], n=1)


def test_what_ships_is_judged() -> None:
    found = calibrate_latents(["cot", "sim_cot"], n=10)
    assert list(found.reports) == ["cot", "sim_cot"]
    passed = {(mark.rung, mark.instrument): mark.passed for mark in found.marks}
    assert passed["cot", "answers with every step written"] and passed["sim_cot", "answers with no written step"]
    with pytest.raises(StoreError, match="cocoa is no folder, nor a reasoner that comes with the package"):
        calibrate_latents(["cocoa"])
