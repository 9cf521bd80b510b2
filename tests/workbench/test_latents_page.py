"""The Latents page: the chain as a strip, read-outs, replacements, runs, and trained reasoners compared."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from page_reading import clean, components, texts
from streamlit.testing.v1 import AppTest

from stir_core.evaluate.latent_readings import read_latents
from stir_core.evaluate.latents import evaluate_latents
from stir_core.latent.training import load_reasoner, train_latent
from stir_core.readings import LatentReading
from stir_core.store import latents as store_latents
from stir_core.tasks.arithmetic import split_of
from stir_core.tasks.modular import MODULAR, asked_chain
from tests.latent.toys import RECIPE
from workbench.latents.charts import latent_map
from workbench.latents.data import (
    FIRST,
    attention_rows,
    by_operations,
    change_outcome,
    change_rows,
    compared,
    drawn_problem,
    lens_rows,
    line_rows,
    noise_line,
    noise_rows,
    probe_rows,
    run_rows,
    strip,
    vote_line,
)

OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reasoner with all parts, hardly trained; read only."""
    return train_latent("atp", tmp_path_factory.mktemp("trained") / "atp", recipe=RECIPE)


@pytest.fixture(scope="module")
def reading(trained: Path) -> LatentReading:
    return read_latents(load_reasoner(trained), FIRST)


@pytest.fixture
def placed(store: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The reasoner below the folder of runs, and none shipped."""
    monkeypatch.setattr(store_latents, "SHIPPED", tmp_path / "none")
    shutil.copytree(trained, store / "latent" / "atp")
    return store / "latent" / "atp"


def test_the_strip_shows_every_step_and_latent(reading: LatentReading) -> None:
    steps = strip(reading)
    assert [latent["slot"] for step in steps for latent in step["latents"]] == list(range(len(reading.latents)))
    assert [step["truth"] for step in steps][:3] == ["<<7+3=10>>", "<<10*5=6>>", "<<6-2=4>>"]
    for shown, step in zip(steps, reading.steps, strict=True):
        assert shown["wrong"] == (step.right is False) == ("✗ wrong" in shown["verdict"])
    assert all(bool(latent["stop"]) == (latent["slot"] % 2 == 0) for step in steps for latent in step["latents"])


def test_tables_hold_the_reading(reading: LatentReading) -> None:
    assert list(lens_rows(reading, 1)["entropy"]) == [layer.entropy for layer in reading.latents[1].layers]
    rows = change_rows(reading, 1)
    assert list(rows["p own"]) == [change.probability for change in reading.changes if change.step == 1] and len(rows) == 7
    assert reading.runs is not None and list(run_rows(reading)["answer"]) == [run.answer or "none" for run in reading.runs]
    assert f"{sum(run.right for run in reading.runs)} of {len(reading.runs)} runs are right" in vote_line(reading)


def test_outcomes_are_told_apart(reading: LatentReading) -> None:
    own = reading.replaced(answer="4")
    change = reading.changes[0].replaced(how="swapped", implied={"after": 7, "before": 8, "operation": 10})
    said = {answer: change_outcome(own, change.replaced(answer=answer)) for answer in ("4", "7", "8", "10", "9", "")}
    follows = {"7": "follows the value after", "8": "follows the value before", "10": "follows the operation"}
    assert said == {"4": "stays", "9": "another", "": "another"} | follows
    alike = change.replaced(answer="4", implied={"after": 4, "before": 8, "operation": 4})
    assert change_outcome(own, alike) == "cannot tell: stays or follows the value after or follows the operation"
    assert change_outcome(reading.replaced(answer=""), change.replaced(answer="", implied={})) == "stays"


def test_a_moved_latent_is_one_table_row_for_each_answer_in_turn(reading: LatentReading) -> None:
    first = reading.samples[0]
    answers = {0.0: "4", 0.1: "4", 0.2: "7", 0.3: "4"}
    line = tuple(first.replaced(amount=amount, answer=answer, step="<<1+1=2>>") for amount, answer in answers.items())
    rows = line_rows(reading.replaced(answer="4", samples=line), 0)
    assert list(zip(rows["way"], rows["answer"], rows["outcome"], strict=True)) == [
        ("0% to 10%", "4", "stays"),
        ("20%", "7", "another"),
        ("30%", "4", "stays"),
    ]
    noise = noise_rows(reading, 1)
    assert list(noise["draws"]) == [16, 16, 16] and list(noise["noise"]) == ["1 sd", "2 sd", "4 sd"]
    assert "its own" not in noise_line(reading.replaced(samples=line)) and "own Gaussian" in noise_line(reading)


def test_attention_is_drawn_for_each_latent_and_block(reading: LatentReading) -> None:
    layers = tuple(layer.replaced(attention=0.1 * layer.layer or None) for layer in reading.latents[0].layers)
    rows = attention_rows(reading.replaced(latents=(reading.latents[0].replaced(layers=layers),) * 2))
    assert list(rows["latent"]) == ["z1", "z1", "z2", "z2"] and list(rows["block"]) == ["1", "2", "1", "2"]
    drawn = latent_map(rows, "attention", ".2f").to_dict()
    assert drawn["height"] > 0 and {layer["mark"]["type"] for layer in drawn["layer"]} == {"rect", "text"}


@pytest.mark.parametrize("setting", list(MODULAR.values()))
def test_problems_are_drawn_from_those_not_trained_on(setting) -> None:
    drawn = [drawn_problem(setting, number) for number in range(20)]
    assert {split_of(asked_chain(text, setting).canonical) for text in drawn} == {"eval"}
    assert len(set(drawn)) > 15 and drawn == [drawn_problem(setting, number) for number in range(20)]
    assert asked_chain(FIRST, setting).question == FIRST


def test_without_a_reasoner_the_page_says_how_to_train_one(
    open_page: OpenPage, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store_latents, "SHIPPED", tmp_path / "none")
    app = clean(open_page("latents"))
    assert any(code.value.startswith("stir latent train cot") for code in app.code)


def test_a_chain_is_shown_and_a_link_chooses_a_latent(open_page: OpenPage, placed: Path, reading: LatentReading) -> None:
    app = clean(open_page("latents", slot="2"))
    assert app.selectbox(key="latent").options == ["latent/atp"]
    (drawn,) = [data for data in components(app) if "steps" in data]
    assert drawn == {"steps": strip(reading), "chosen": 1}
    assert "Latent z2" in texts(app) and "Swap or drop the latents of step 1" in texts(app)
    assert vote_line(reading) in texts(app)
    assert "evidence about large models" in texts(app)


def test_a_bad_problem_is_one_line_and_the_rest_stays(open_page: OpenPage, placed: Path) -> None:
    app = open_page("latents", chain="7+<b>?")
    assert not app.exception and len(app.error) == 1
    assert "is no chain of operations" in app.error[0].value and "Strategies compared" in texts(app)
    app.text_input(key="chain").set_value(FIRST).run()
    app.text_input(key="partner").set_value("1+1").run()
    assert len(app.error) == 1 and "1 operation" in app.error[0].value
    app.button(key="latents_another").click().run()
    assert app.text_input(key="chain").value == drawn_problem(MODULAR["easy"], 1)
    clean(app)


def test_evaluations_beside_the_folders_are_compared(placed: Path) -> None:
    (row,) = compared({"atp": placed}).table.to_dict("records")
    assert row["right"] == "not evaluated" and row["strategy"] == "atp"
    report = evaluate_latents(placed, n=2, probes=True)
    (placed / store_latents.REPORT).write_text(report.model_dump_json())
    (row,) = compared({"atp": placed}).table.to_dict("records")
    own = report.rows[0]
    assert row["right"] == f"{own.accuracy:.1%}" and row["n"] == own.problems
    assert [float(row[by_operations(count)].split()[0]) for count in (2, 3, 4)] == [100 * own.by_count[count] for count in (2, 3, 4)]
    table = probe_rows(report, 3)
    assert len(table) == 8 * 3 and list(table["read"]) == [probe.accuracy.value for probe in report.probes if probe.after == 3]
    facts = json.loads((placed / "training.json").read_text())
    of_a_file = {"setting": "train.txt", "data": {"name": "train.txt", "sha256": "0", "longest": 2}}
    (placed / "training.json").write_text(json.dumps(facts | of_a_file))
    (placed / store_latents.REPORT).write_text(report.replaced(setting="train.txt").model_dump_json())
    found = compared({"atp": placed})
    assert found.broken == [] and list(found.table["right"]) == [f"{own.accuracy:.1%}"] and by_operations(2) not in found.table
    (placed / "training.json").write_text(json.dumps(facts))
    (placed / store_latents.REPORT).write_text(report.replaced(weights="0" * 64).model_dump_json())
    found = compared({"atp": placed})
    assert found.table.empty and "made with other weights" in found.broken[0]


def test_a_torn_folder_is_one_line(open_page: OpenPage, placed: Path) -> None:
    (placed / "heads.safetensors").write_bytes(b"torn")
    app = open_page("latents")
    assert not app.exception and len(app.error) == 1 and "holds no reasoner that can be read" in app.error[0].value.replace("\\", "")
