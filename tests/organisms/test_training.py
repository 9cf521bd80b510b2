"""Training: seeded, resumable, refusing a folder with something else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from stir_core.errors import DataError, ModelError, PromptError
from stir_core.models.catalogue import catalogue, prepare, resolve
from stir_core.models.loading import load_model
from stir_core.organisms.planted import organism_of, planted, written_states
from stir_core.organisms.rungs import RUNGS
from stir_core.organisms.training import TrainingRecipe, organism_digest, tokenizer, train
from stir_core.records import Progress

RECIPE = TrainingRecipe(d_model=16, layers=2, heads=2, steps=6, batch=4, checkpoint=2)


class Stop(Exception):
    """Raised in the middle of a training."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("two_habits", tmp_path_factory.mktemp("organism") / "whole", recipe=RECIPE)


def test_an_interrupted_training_gives_the_same_weights(trained: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 3:
            raise Stop

    with pytest.raises(Stop):
        train("two_habits", tmp_path / "again", recipe=RECIPE, report=stop)
    checkpoint = tmp_path / "again" / "checkpoint.safetensors"
    kept = checkpoint.read_bytes()
    first = {name: value[:1] for name, value in load(kept).items() if name.startswith("weight/") and value.ndim == 2}
    for damaged, why in ((kept[:1000], "header"), (save(load(kept)), ""), (save(load(kept) | first, {"log": "[]"}), "has the shape")):
        checkpoint.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"checkpoint\.safetensors is damaged \(.*{why}.*: delete it, and the training starts over"):
            train("two_habits", tmp_path / "again", recipe=RECIPE)
    checkpoint.write_bytes(kept)
    steps: list[int] = []
    train("two_habits", tmp_path / "again", recipe=RECIPE, report=lambda progress: steps.append(progress.done))
    assert steps == [3, 4, 5, 6]  # the third is trained again: the checkpoint is from the second
    assert organism_digest(tmp_path / "again") == organism_digest(trained)
    assert (tmp_path / "again" / "training.jsonl").read_bytes() == (trained / "training.jsonl").read_bytes()
    assert [json.loads(line)["step"] for line in (trained / "training.jsonl").read_text().splitlines()] == [2, 4, 6]


def test_another_seed_gives_other_weights(trained: Path, tmp_path: Path) -> None:
    assert organism_digest(train("two_habits", tmp_path / "other", seed=1, recipe=RECIPE)) != organism_digest(trained)


def test_a_folder_with_something_else_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is there already and is not this training"):
        train("null", trained, recipe=RECIPE)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="is there already"):
        train("null", tmp_path, recipe=RECIPE)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_missing_weights_are_named(trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors is missing: remove .*training\.jsonl to train again"):
        organism_digest(copy)


def test_text_is_joined_as_it_was() -> None:
    words = tokenizer()
    text = "so let me see , start with 7\n\nso 7 plus 3 makes 10\n\n#### 10"
    assert words.decode(words.encode(text)) == text
    assert len(words.encode("\n\n")) == len(words.encode(" 17")) == 1


def test_an_organism_loads_and_knows_its_truth(trained: Path) -> None:
    model = load_model(str(trained))
    organism = organism_of(model.identity.name)
    assert organism.rung is RUNGS["two_habits"]
    again = planted(written_states(model, organism.rung))
    np.testing.assert_array_equal(again.habit, organism.planted.habit)
    assert float(again.habit.norm()) > 0
    np.testing.assert_array_equal(organism.planted.correction(organism.rung, "add"), again.habit)
    np.testing.assert_array_equal(organism.planted.correction(organism.rung, "sub"), -again.habit)
    assert not organism.planted.correction(RUNGS["null"], "add").any()


def test_unknown_words_and_system_texts_are_refused(trained: Path) -> None:
    model = load_model(str(trained))
    assert model.chat_text("add 7 , 3 ?") == "<s>add 7 , 3 ?\n\n"
    with pytest.raises(PromptError, match=r"does not know 'What', 'is', '2\+2\?': ask in its language"):
        model.chat_ids("What is 2+2?")
    with pytest.raises(PromptError, match=r"does not know 'Be', 'brief\.'"):
        model.chat_ids("add 7 , 3 ?", "Be brief.")


def test_other_models_are_not_organisms(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for file in trained.iterdir():
        if file.name != "training.json":
            (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="is not an organism: nothing is known to be planted in it"):
        organism_of(str(folder))


EMBEDDED = sorted(info.name for info in catalogue() if info.name.startswith("organism:"))


def test_organisms_are_embedded() -> None:
    assert "organism:two_habits" in EMBEDDED


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_organism_is_the_one_on_its_card(name: str) -> None:
    folder = prepare(resolve(name))
    card = (folder / "README.md").read_text("utf-8")
    assert organism_digest(folder) in card
    assert "A calibration object" in card
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    assert TrainingRecipe(**json.loads((folder / "training.json").read_text())["recipe"]) == TrainingRecipe()


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_planted_directions_move_the_habit_of_an_embedded_organism(name: str) -> None:
    model = load_model(name)
    organism = organism_of(model.identity.name)
    states = written_states(model, organism.rung, n=40, seed=7)
    if organism.rung.right is None:
        assert not organism.planted.habit.any()
        return
    fresh = planted(states).habit[1]
    assert float(torch.cosine_similarity(fresh, organism.planted.habit[1], dim=0)) > 0.95  # other texts than it was fitted on
