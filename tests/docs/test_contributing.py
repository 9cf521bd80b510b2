"""The contributing pages: their code runs as printed, and what it adds works like the built-in parts, registered or as a file."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stir_core as stir
from stir_core.basis import selection
from stir_core.cli import main
from stir_core.config import STAGES, DecodeConfig, GateConfig, config_from, with_changes
from stir_core.deploy.export import TARGETS, register_target
from stir_core.errors import ConfigError, DataError, DeployError
from stir_core.evaluate.decoders.base import Bench, Question
from stir_core.evaluate.decoders.registry import DECODERS, method, register_decoder
from stir_core.intervene.jobs import Settings
from stir_core.intervene.memory import Memory
from stir_core.records import Progress
from stir_core.stages.pipeline import run_stages
from stir_core.stages.stage import DECLARED, Stage, register_stage, stage_digest
from stir_core.store.runs import EMBEDDED_RUNS
from stir_core.tasks import ROLES, Grader
from stir_core.tasks.catalogue import SOURCES, TASKS
from stir_core.tasks.segment import boundaries
from tests.builders import make_entry
from tests.intervene.test_controller import LAYER, D, make_memory

PAGES = Path(__file__).resolve().parents[2] / "docs" / "contributing"


@pytest.fixture(autouse=True)
def tables_are_restored() -> Iterator[None]:
    """Undo what a page registers when its test has ended."""
    tables: list[dict[str, Any]] = [DECLARED, TASKS, SOURCES, DECODERS, selection.SELECTORS, TARGETS]
    before, names = [dict(table) for table in tables], [*STAGES]
    yield
    for table, saved in zip(tables, before, strict=True):
        table.clear()
        table.update(saved)
    STAGES[:] = names


def blocks(page: str) -> list[str]:
    """A page's code."""
    code = re.findall(r"^```python\n(.*?)^```", (PAGES / f"{page}.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert code
    return code


def done(page: str) -> dict[str, Any]:
    """Run a page's code blocks from top to bottom and return the names they define."""
    namespace: dict[str, Any] = {"__name__": page}
    for block in blocks(page):
        exec(compile(block, f"{page}.md", "exec"), namespace)
    return namespace


def test_a_task_is_mined_and_held_out_like_any_other() -> None:
    with pytest.raises(DataError, match="unknown task 'products'"):
        stir.load_problems("products", "mine")
    done("task")
    roles = {role: {problem.question for problem in stir.load_problems("products", role)} for role in ROLES}
    assert all(roles.values()) and sum(map(len, roles.values())) == 121 == len(set().union(*roles.values()))
    with Grader() as grader:
        (problem,) = stir.load_problems("products", "eval", n=1)
        assert grader.grade(problem.kind, problem.answer, f"So it is {problem.answer}.\n#### {problem.answer}").correct


def test_a_benchmark_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("task")
    for split, answer in (("train", "1,080"), ("test", "7.0")):
        file = tmp_path / "riddles" / f"{split}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'{{"id": "a", "text": " What is {split}? ", "solution": "{answer}"}}\n')
    monkeypatch.setenv("STIR_DATA_ROOT", str(tmp_path))
    (held_out,) = stir.load_problems("riddles", "eval")
    assert (held_out.id, held_out.question, held_out.answer) == ("riddles/test/a", "What is test?", "7")
    assert [problem.answer for problem in stir.load_problems("riddles", "train")] == ["1080"]


def test_a_token_wise_decoder_answers_like_vanilla_up_to_its_last_step(tiny) -> None:
    done("decoder")
    questions = [
        Question(stir.Problem(id=name, task="t", split="s", question="?", answer="1", kind="number"), ids)
        for name, ids in (("a", [5, 9, 40, 7, 100]), ("b", [17, 3, 250]), ("c", [200, 201]))
    ]
    bench = Bench(tiny, Settings(DecodeConfig(max_new_tokens=30), 4, "e"), GateConfig(), lambda name: None)
    brief, vanilla = (
        {answer.problem_id: answer for answer in method(text).answer(bench, questions)} for text in ("brief:steps=2", "vanilla")
    )
    stepped = 0
    for name, answer in brief.items():
        assert answer.method == "brief:steps=2" and answer.token_ids == vanilla[name].token_ids[: len(answer.token_ids)]
        ends = boundaries(vanilla[name].token_ids, tiny.text, "e")
        stepped += len(ends) >= 2
        assert len(answer.token_ids) == (ends[1] if len(ends) >= 2 else len(vanilla[name].token_ids))
    assert stepped and len(brief) == 3


def test_a_step_wise_method_injects_at_the_control_points_that_it_names(tiny) -> None:
    done("decoder")
    problem = stir.Problem(id="a", task="t", split="s", question="?", answer="1", kind="number")
    memory, deeper = make_memory(), make_entry("n", 1, LAYER + 1, 1.0, "null")
    keys = np.vstack([memory.raw_keys, np.ones(D)])
    actions = np.vstack([*(memory.action(entry.id) for entry in memory.entries), np.zeros(D)])
    library = Memory((*memory.entries, deeper), keys, actions)  # its deepest layer has null entries only
    bench = Bench(tiny, Settings(DecodeConfig(max_new_tokens=40), 4, "e"), GateConfig(), lambda name: library)
    (answer,) = method("alternate:strength=0.5").answer(bench, [Question(problem, [5, 9, 40, 7, 100])])
    assert answer.trace is not None
    injected = {step.evidence.m: step.decision.chosen for step in answer.trace.steps}
    assert len(injected) >= 3 and all((chosen == "mean") == bool(m % 2) for m, chosen in injected.items())
    with pytest.raises(ConfigError, match="stir is one of the built-in decoders"):
        register_decoder(replace(DECODERS["alternate"], name="stir"))


def test_a_selector_makes_a_basis(tmp_path: Path) -> None:
    with pytest.raises(stir.StirError, match="take one of " + ", ".join(selection.SELECTORS)):
        config_from({"basis": {"selector": "farthest"}})
    done("selector")
    assert config_from({"basis": {"selector": "farthest"}}).basis.selector == "farthest"
    run = stir.open_run("smollm2")
    units = selection.unit_rows(run.key_rows()[[entry.key_row for entry in run.entries()]])
    rows = {entry.id: i for i, entry in enumerate(run.entries())}

    def closest(**changes: Any) -> float:
        chosen = units[[rows[pick.entry_id] for pick in stir.select_basis(run, budget=12, min_per_control_point=0, **changes).picks]]
        return float(np.max(chosen @ chosen.T - 2 * np.eye(len(chosen))))

    assert closest(selector="farthest") < min(closest(selector="top"), closest(selector="random"))
    picks = stir.select_basis(run, selector="farthest", budget=40).picks
    assert len({pick.entry_id for pick in picks}) == 40 and any(pick.forced for pick in picks)


def test_a_stage_is_made_after_those_that_it_reads(tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(EMBEDDED_RUNS["smollm2"], tmp_path / "run")
    run = stir.open_run(tmp_path / "run")
    model = replace(tiny, identity=run.model_identity())  # the only part of the model that the stage uses
    make = done("stage")["make_strengths"]
    reports: list[Progress] = []
    run_stages(run.config, run.path, until="strengths", model=model, report=reports.append)
    assert run.stages() == tuple(STAGES) and STAGES[-1] == "strengths"
    assert [(each.stage, each.done) for each in reports] == [("strengths", run.manifest("strengths").counts["actions"])]
    assert list(run.manifest("strengths").inputs) == ["rollouts", "states", "actions"]
    norms = {entry.id: (entry.action_norm, entry.key_norm) for entry in run.entries() if entry.kind == "corrective"}
    rows = [json.loads(line) for line in (run.folder("strengths") / "strengths.jsonl").read_text("utf-8").splitlines()]
    ratios = {id_: action / key for id_, (action, key) in norms.items() if action is not None}
    assert {row["entry_id"]: row["ratio"] for row in rows} == ratios
    assert main(["status", str(run.path)]) == 0 and "strengths" in capsys.readouterr().out
    other = with_changes(run.config, gate={"k_scale": 9.0}), with_changes(run.config, mining={"top_pairs": 9})
    assert [stage_digest(config, "strengths") == stage_digest(run.config, "strengths") for config in other] == [True, False]
    register_stage(Stage("strengths", reads=("actions",), settings=lambda config: {"seed twice": 2 * config.seed + 1}, make=make))
    with pytest.raises(stir.StirError, match=r'stage "strengths" .* was made with other settings: add --redo strengths'):
        run_stages(run.config, run.path, until="strengths", model=model)
    before = run.digest("strengths")
    run_stages(run.config, run.path, until="strengths", model=model, redo="strengths")
    assert run.digest("strengths") == before and run.finished("steered")


def test_an_export_target_keeps_what_it_says(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="take one of " + ", ".join(TARGETS)):
        stir.export_library("smollm2", tmp_path / "it", to="csv")
    own = dict(TARGETS)
    done("export-target")
    with pytest.raises(DeployError, match="gguf is one of the built-in targets"):
        register_target("gguf", TARGETS["csv"])
    assert list(TARGETS) == [*own, "csv"] and TARGETS["gguf"] is own["gguf"]
    out = stir.export_library("smollm2", tmp_path / "it", to="csv")
    assert stir.export_library("smollm2", tmp_path / "it", to="csv") == out  # an older export is replaced
    with (out / "actions.csv").open() as file:
        lines = list(csv.reader(file))[1:]
    library = stir.open_library(stir.open_run("smollm2"))
    kept = [(entry, action) for entry, action in zip(library.entries, library.actions, strict=True) if entry.kind == "corrective"]
    assert [line[0] for line in lines] == [entry.id for entry, _ in kept]
    assert np.array_equal(np.array([line[3:] for line in lines], dtype=np.float32), np.array([action for _, action in kept]))


FILES = {
    "evaluate/decoders/alternate.py": ("decoder", 0),
    "evaluate/decoders/brief.py": ("decoder", 2),
    "basis/selectors/farthest.py": ("selector", 0),
    "stages/strengths.py": ("stage", 0),
    "deploy/targets/csv.py": ("export-target", 0),
}
"""The one file that each page adds: its path in the package, and the page's block that is the whole file."""


def test_one_file_adds_a_decoder_a_selector_a_stage_and_a_target(tmp_path: Path) -> None:
    """In a copy of the package and a process of its own: files are found as the program starts."""
    package = Path(stir.__file__).parent
    shutil.copytree(package, tmp_path / "stir_core", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    (tmp_path / "stir_core" / "assets").symlink_to(package / "assets")
    for name, (page, block) in FILES.items():
        assert not (package / name).exists()
        (tmp_path / "stir_core" / name).write_text(blocks(page)[block])
    program = f"""
import sys
from stir_core.cli import main
assert "stir_core.deploy.export" not in sys.modules and "stir_core.stages.strengths" not in sys.modules, "listing commands loads neither"
assert main(["export", "smollm2", "--to", "csv", "--out", {str(tmp_path / "out")!r}]) == 0
assert main(["methods"]) == main(["status", "smollm2"]) == 0
import stir_core as stir
print("picked", [pick.forced for pick in stir.select_basis(stir.open_run("smollm2"), selector="farthest", budget=3).picks])
from stir_core.deploy.export import TARGETS
assert list(TARGETS).index("published") < list(TARGETS).index("csv"), "the one that keeps more comes first"
from stir_core.stages.stage import stage_digest
assert stage_digest(stir.RunConfig(), "strengths") == stage_digest(stir.RunConfig(), "actions")
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "lost: keys, retrieval" in ended.stdout and (tmp_path / "out" / "actions.csv").is_file()
    assert all(name in ended.stdout for name in ("alternate", "brief", "strengths", "picked [True, True, True]"))
