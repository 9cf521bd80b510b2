"""A finished run of the tiny model, with a grader that calls half of all answers right."""

from pathlib import Path

import pytest

from stir_core.basis import geometry
from stir_core.config import config_from
from stir_core.evaluate import continuations, policy, runner, sweep
from stir_core.models.loading import LoadedModel, load_model
from stir_core.records import Verdict
from stir_core.stages import actions, rollouts, steered
from stir_core.stages.pipeline import run_stages
from stir_core.store.runs import Run
from stir_core.tasks import Grader

CONFIG = {
    "delimiter": "e",
    "task": {"n_train": 6, "n_eval": 2, "template": "plain"},
    "rollouts": {"k": 4, "max_new_tokens": 24, "temperature": 1.0},
    "mining": {"control_points": 4, "layers": [1, 2], "top_pairs": 12},
    "basis": {"budget": 20, "min_per_control_point": 1},
    "gate": {"k_scale": 1.0},
    "decode": {"max_new_tokens": 24, "batch_problems": 2},
}


class Coin(Grader):
    """A random model is never right: half of its answers are declared so, by the parity of their length."""

    def grade(self, kind, gold, answer_text, *, choices=()):
        right = len(answer_text) % 2 == 0
        return Verdict(correct=right, extracted="1", gold=gold, method="coin", reason="coin", finished=True)


@pytest.fixture(autouse=True)
def coin(monkeypatch):
    for module in (rollouts, actions, steered, runner, continuations, sweep, policy):
        monkeypatch.setattr(module, "Grader", Coin)


@pytest.fixture(scope="module", autouse=True)
def no_umap():
    """A basis without its UMAP, which takes 15 seconds to compile in a process; ``tests/basis/test_geometry.py`` makes one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "MIN_UMAP", 10**6)
        yield


@pytest.fixture(scope="module")
def tiny_loaded(tiny_folder) -> LoadedModel:
    return load_model(tiny_folder)


@pytest.fixture(scope="module")
def finished(tiny_folder, tiny_loaded, tmp_path_factory) -> Run:
    """A run up to its basis; copied before anything is written to it."""
    config = config_from({**CONFIG, "model": {"name": tiny_folder}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "Grader", Coin)
        return run_stages(config, tmp_path_factory.mktemp("runs") / "run", until="basis", model=tiny_loaded)


@pytest.fixture
def run(finished, tmp_path) -> Run:
    import shutil

    shutil.copytree(finished.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def lines(folder: Path) -> dict[str, int]:
    """Lines of every JSON-lines file below a folder."""
    return {file.name: len(file.read_text().splitlines()) for file in sorted(folder.rglob("*.jsonl"))}
