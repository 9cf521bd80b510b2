"""Digests are compared when a file is first read; `stir verify` says what is damaged, missing or foreign; schema 1 still opens."""

import json
import os
import shutil
from pathlib import Path

import pytest

from stir_core.cli import main
from stir_core.errors import StoreError
from stir_core.store.runs import Run
from stir_core.store.seals import as_sealed, read_seal, write_seal
from stir_core.store.verify import verify_run

SCHEMA_1 = Path(__file__).resolve().parents[1] / "data" / "schema-1"
"""A run made by the code of commit bcd773b, when manifests had schema version 1."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    shutil.copytree(Run.open("two_habits").path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def flip(file: Path) -> None:
    """Change one byte and nothing else, not even the times."""
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("actions/actions.safetensors", Run.library),
        ("actions/entries.jsonl", Run.entries),
        ("actions/controls.jsonl", Run.controls),
        ("states/states.safetensors", Run.states),
        ("rollouts/rollouts.jsonl", Run.rollouts),
        ("basis/picks.jsonl", Run.picks),
        ("steered/steered.jsonl", Run.traces),
    ],
)
def test_a_changed_byte_is_refused_where_it_is_read(run: Run, name: str, read) -> None:
    read(run)
    flip(run.path / name)
    with pytest.raises(StoreError, match="is not the file that was written"):
        read(run)
    (run.path / name).unlink()
    with pytest.raises(StoreError, match="is missing"):
        read(run)


def test_what_is_damaged_missing_or_foreign_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run.path)]) == 0
    flip(run.path / "states" / "rows.jsonl")
    (run.path / "actions" / "lens.jsonl").unlink()
    (run.path / "basis" / "mine.txt").write_text("x")
    (run.path / "notes.txt").write_text("x")
    (run.path / "causal" / "digests.json").unlink()  # as studies of old runs are
    (run.path / "causal" / "report.json").write_text("[" * 100_000)
    flip(run.path / "evaluation" / "chain-eval" / "report.json")
    found = {(each.state, each.path.relative_to(run.path).as_posix()) for each in verify_run(run).found}
    assert found == {
        ("damaged", "states/rows.jsonl"),
        ("missing", "actions/lens.jsonl"),
        ("foreign", "basis/mine.txt"),
        ("foreign", "notes.txt"),
        ("damaged", "causal"),
        ("damaged", "evaluation/chain-eval/report.json"),
    }
    capsys.readouterr()
    assert main(["verify", str(run.path), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["found"]) == 6


def test_a_stage_of_another_run_is_foreign(run: Run) -> None:
    shutil.rmtree(run.path / "states")
    shutil.copytree(Run.open("smollm2").path / "states", run.path / "states")
    assert {(each.state, each.path.name) for each in verify_run(run).found} >= {("foreign", "actions"), ("foreign", "states")}


def test_a_seal_names_what_was_written(tmp_path: Path) -> None:
    file, seal = tmp_path / "answers" / "a.jsonl", tmp_path / "digests.json"
    file.parent.mkdir()
    file.write_text("one\n")
    assert as_sealed(seal, file, "remedy") == file, "no seal, no check"
    write_seal(seal, [file])
    assert list(read_seal(seal)) == ["answers/a.jsonl"]
    assert as_sealed(seal, file, "remedy") == file
    flip(file)
    with pytest.raises(StoreError, match=r"a\.jsonl is not the file that was written: its SHA-256 is another; remedy"):
        as_sealed(seal, file, "remedy")
    seal.write_text('{"schema_version": 2, "files": {}}')
    with pytest.raises(StoreError, match="update stir-workbench"):
        read_seal(seal)


def test_a_run_of_schema_1_opens_and_is_whole() -> None:
    run = Run.open(SCHEMA_1)
    assert {run.manifest(stage).schema_version for stage in run.stages()} == {1} and len(run.stages()) == 5
    assert len(run.rollouts()) == 24 and len(run.traces()) == len(run.traces("vanilla")) == 2
    assert {step.decision.reason.kind for trace in run.traces() for step in trace.steps} <= {"start", "too_few_entries", "no_library"}
    assert verify_run(run).found == []
