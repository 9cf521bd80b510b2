"""Faults of the world: full, read-only and closed disks, odd names and damaged files are one line with exit code 2, and nothing is lost."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from stir_core.cli import main, parsed
from stir_core.config import RunConfig
from stir_core.errors import StoreError, escaped, line_of
from stir_core.records import Problem
from stir_core.store.jsonl import append_records, read_appended
from stir_core.store.runs import EMBEDDED_RUNS, Run, list_runs

CONFIG = RunConfig().model_dump(mode="json")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must exit with 2 and one line on stderr."""
    try:
        code = main(list(words))
    except SystemExit as ended:  # argparse's way
        code = ended.code
    line = capsys.readouterr().err
    assert code == 2 and line.count("\n") == 1 and line.removesuffix("\n").isprintable(), line
    return line


def test_control_signs_are_shown_as_text() -> None:
    assert escaped("a\nb\x1b[31m\0\ud800 ü") == "a\\nb\\x1b[31m\\x00\\ud800 ü"
    assert str(StoreError("two\nlines \x1b[2J")) == "two\\nlines \\x1b[2J"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, 9999])
def test_a_fault_of_the_disk_names_its_file_and_the_remedy(number: int) -> None:
    line = line_of(OSError(number, os.strerror(number), "runs/a\nb"))
    assert line.startswith(f"runs/a\\nb cannot be read or written ({os.strerror(number)}): ")
    assert len(line.rpartition(": ")[2]) > 10


def test_an_error_of_a_library_without_a_number_keeps_its_first_line() -> None:
    assert line_of(OSError("no such model\nlook elsewhere")) == "no such model"


def test_a_full_disk_is_one_line_and_what_was_written_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answers.jsonl"
    problem = Problem(id="p", task="t", split="s", kind="number", question="q", answer="1")
    append_records(file, [problem])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 20, before[1]))
        with pytest.raises(OSError, match=r"answers.jsonl"):
            append_records(file, [problem.replaced(id="other")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_appended(file, Problem) == [problem]
    append_records(file, [problem.replaced(id="third")])
    assert [each.id for each in read_appended(file, Problem)] == ["p", "third"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_the_command_line_shows_a_fault_of_the_disk_in_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(run: Run) -> list:
        raise OSError(number, os.strerror(number), "runs/mine/run.json.part")

    monkeypatch.setattr(Run, "status", status)
    assert os.strerror(number) in refused(capsys, "status", "two_habits")


def test_a_full_standard_output_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "stir_core", "methods"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and "No space left" in ended.stderr


def test_an_ascii_locale_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_text(r"\boxed{½}", encoding="utf-8")
    words = ["grade", "--kind", "math", "--gold", "½", "--answer", str(tmp_path / "answer.txt")]
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run([sys.executable, "-m", "stir_core", *words], env=plain, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.decode("utf-8").endswith("equals ½\n")


@pytest.mark.parametrize("out", [".", "", "..", "/", "FILE", "x" * 300, "a\0b", "a\udcff"])
def test_an_odd_place_is_refused_before_any_work(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "FILE").write_text("mine")
    place = str(tmp_path / "FILE") if out == "FILE" else out
    for words in (["export", "two_habits"], ["run", "configs/demo.toml"], ["sweep", "configs/sweep.toml"], ["calibrate", "--quick"]):
        assert refused(capsys, *words, "--out", place)
    assert (tmp_path / "FILE").read_text() == "mine"


def test_unknown_words_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\\x1b[31m\\n" in refused(capsys, "show", "two_habits", "--odd\x1b[31m\n")
    assert "name its file with --dictionary" in refused(capsys, "show", "two_habits", "p0001c", "--tensor", "W_dec")
    assert "invalid choice" in refused(capsys, "shw")
    assert parsed(["show", "runs/ü"]).run == "runs/ü"


BROKEN = {
    "null": '{"config": null}',
    "list": "[]",
    "text": '"x"',
    "unknown-key": '{"config": {"gate": {"of_tomorrow": 1}}}',
    "key-of-lines": json.dumps({"config": {"a\nb\x1b[31m": 1}}),
    "deep": "[" * 100_000,
    "deep-object": '{"config": ' + '{"a":' * 50_000,
    "deep-facts": json.dumps({"config": CONFIG})[:-1] + ', "x": ' + "[" * 600 + "]" * 600 + "}",
    "not-utf8": b'{"config": "\xff"}',
    "surrogate": json.dumps({"config": CONFIG, "command": "\ud800"}),
    "huge": '{"config": {"seed": ' + "9" * 5000 + "}}",
    "big": '{"config": {"seed": ' + "9" * 4000 + "}}",
    "versions": json.dumps({"config": CONFIG, "versions": [1]}),
    "command": json.dumps({"config": CONFIG, "command": {}}),
    "schema": json.dumps({"config": CONFIG, "schema_version": 99}),
}


def test_a_damaged_or_foreign_run_is_left_out_by_name_and_takes_nothing_else_down(tmp_path: Path) -> None:
    for name, text in BROKEN.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    for name in ("good", "of\nlines", os.fsdecode(b"odd\xff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"config": CONFIG}))
    runs, broken = list_runs(tmp_path)
    assert [run.name for run in runs] == [*EMBEDDED_RUNS, "good"]
    assert {path.name for path in broken} == {*BROKEN, "of\nlines", os.fsdecode(b"odd\xff")}
    for path, line in broken.items():
        assert escaped(path.name) in line and line.isprintable()


def test_a_run_that_may_not_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "run.json").write_text(json.dumps({"config": CONFIG}))
    openly = Run.open

    def closed(where: Path) -> Run:
        if where.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(where))
        return openly(where)

    monkeypatch.setattr(Run, "open", closed)
    assert [line for _, line in list_runs(tmp_path)[1].items()] == [
        line_of(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "closed")))
    ]
