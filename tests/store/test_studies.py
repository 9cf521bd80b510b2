"""Folders of studies: what a user put there is never deleted, and folders of other programs beside them take nothing down."""

import shutil
from pathlib import Path

import pytest

from stir_core.errors import StoreError
from stir_core.store.causal import CausalFolder
from stir_core.store.evaluations import EvaluationFolder, evaluations
from stir_core.store.runs import Run
from stir_core.store.seals import DIGESTS, read_seal
from stir_core.store.studies import StudyFolder
from stir_core.store.verify import verify_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    shutil.copytree(Run.open("two_habits").path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def begun(study: StudyFolder, *, fresh: bool) -> None:
    study.begin(study.spec().replaced(fresh=fresh), study.problems())


@pytest.mark.parametrize("kind", [lambda run: EvaluationFolder(run, "chain-eval"), CausalFolder])
def test_a_file_of_the_user_in_a_study_is_not_deleted(run: Run, kind) -> None:
    study = kind(run)
    notes = study.final / "notes.md"
    notes.write_text("mine")
    with pytest.raises(StoreError, match=r"notes.md was not written by the study: move it away, it would be deleted"):
        begun(study, fresh=True)
    report = study.report()
    begun(study, fresh=False)  # continuing keeps it, and does not take it for its own
    study.write_report(report, "text", complete=True)
    assert notes.read_text() == "mine" and "notes.md" not in read_seal(study.final / DIGESTS)
    notes.unlink()
    begun(study, fresh=True)
    assert not study.reported


def test_of_two_folders_of_one_study_none_is_deleted(run: Run) -> None:
    study = EvaluationFolder(run, "chain-eval")
    shutil.copytree(study.final, study.part)
    with pytest.raises(StoreError, match="are both there: move one of them away"):
        begun(study, fresh=False)
    shutil.rmtree(study.final)
    study.final.write_text("mine")
    with pytest.raises(StoreError, match="holds other files than a study's"):
        begun(study, fresh=False)
    assert study.final.read_text() == "mine"


@pytest.mark.parametrize("label", ["chain-eval.lock", "chain-eval.writer.json", "chain-eval.part", ".hidden", "a/b", ""])
def test_a_label_is_no_name_that_stands_beside_an_evaluation(run: Run, label: str) -> None:
    with pytest.raises(StoreError, match="is not a folder name"):
        EvaluationFolder(run, label)


def test_other_folders_among_the_evaluations_are_passed_over_and_named(run: Run) -> None:
    (run.path / "evaluation" / ".ipynb_checkpoints").mkdir()
    (run.path / "evaluation" / "notes.txt").write_text("mine")
    assert [each.final.name for each in evaluations(run)] == ["chain-eval"]
    assert {each.path.name for each in verify_run(run).found if each.state == "foreign"} == {".ipynb_checkpoints", "notes.txt"}


def test_a_damaged_manifest_is_reported_once(run: Run) -> None:
    (run.path / "actions" / "manifest.json").write_text("{")
    assert [each.path for each in verify_run(run).found if each.state == "damaged"] == [run.path / "actions" / "manifest.json"]


def test_a_folder_of_another_program_does_not_stop_the_end_of_a_stage(run: Run) -> None:
    manifest = run.manifest("basis")
    run.discard("basis")
    with run.writing("basis", lambda: manifest) as part:
        (part / ".ipynb_checkpoints").mkdir()
        (part / "picks.jsonl").write_text("")
    assert list(run.manifest("basis").files) == ["picks.jsonl"]
