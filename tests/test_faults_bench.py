"""The program that kills commands (``make faults``) sees what it looks for: each kind of difference, and each moment of a write."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="make faults is for Linux")

import stir_core as stir
from scripts.faults import Moments, differences, tree, whole_lines
from stir_core.deploy.bundle.reading import read_bundle
from stir_core.deploy.bundle.writing import attach
from stir_core.records import Problem
from stir_core.store.files import write_whole
from stir_core.store.jsonl import append_records, read_appended

LINE = b'{"id": 1, "tokens": [1, 2], "logprob": -0.5, "seconds": 1.5}\n'
PROBLEMS = [Problem(id=str(i), task="t", split="s", kind="number", question="q" * 50, answer="1") for i in range(3)]


@pytest.mark.parametrize(
    ("seen", "how"),
    [
        (LINE.replace(b"1.5", b"9.5"), "equal"),  # a time
        (LINE.replace(b"-0.5", b"-0.5000001"), "last bits"),
        (LINE.replace(b"-0.5", b"-0.51"), "different"),
        (LINE.replace(b"[1, 2]", b"[1, 3]"), "different"),
        (LINE + LINE, "different"),
        (None, "different"),
    ],
)
def test_files_are_compared_by_what_they_say(seen: bytes | None, how: str) -> None:
    different, bits = differences({"a.jsonl": LINE}, {} if seen is None else {"a.jsonl": seen})
    assert (bool(different), bool(bits)) == (how == "different", how == "last bits")


def test_results_may_arrive_in_another_order() -> None:
    other = LINE.replace(b'"id": 1', b'"id": 2')
    assert differences({"x/rolls.jsonl": LINE + other}, {"x/rolls.jsonl": other + LINE}) == ([], ["x/rolls.jsonl"])
    assert differences({"x/rolls.jsonl": LINE + other}, {"x/rolls.jsonl": LINE + LINE})[0] == ["x/rolls.jsonl"]
    assert differences({"x/rows.jsonl": LINE + other}, {"x/rows.jsonl": other + LINE})[0] == ["x/rows.jsonl"]


def test_finished_results_are_whole_lines() -> None:
    before = whole_lines({"x/rollouts.part/rollouts.jsonl": LINE + b'{"id"', "x/log.txt": LINE})
    assert before == {("x/rollouts/rollouts.jsonl", LINE.strip()): 1}
    assert not before - whole_lines({"x/rollouts/rollouts.jsonl": LINE * 2})
    assert before - whole_lines({"x/rollouts/rollouts.jsonl": b""})


def in_a_fork(work: Callable[[], None]) -> int | None:
    """How a fork of this process that does the work ends: 0, or minus the signal's number."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("how", ["before", "torn", "after"])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_a_process_is_killed_at_each_moment_of_its_writes(tmp_path: Path, at: int, how: str) -> None:
    """Two whole writes of a file and two appends: nine moments, and after each the files hold what was there or what was to come."""

    def work() -> None:
        Moments(tmp_path, at, how, cut=0.5)
        write_whole(tmp_path / "whole", b"old")
        write_whole(tmp_path / "whole", b"new")
        append_records(tmp_path / "lines.jsonl", PROBLEMS[:1])
        append_records(tmp_path / "lines.jsonl", PROBLEMS[1:2])

    assert in_a_fork(work) == -signal.SIGKILL
    files = tree(tmp_path)
    assert files.get("whole", b"old") in (b"old", b"new")
    assert read_appended(tmp_path / "lines.jsonl", Problem) == PROBLEMS[: len(read_appended(tmp_path / "lines.jsonl", Problem))]


def test_a_write_that_is_not_whole_is_seen(tmp_path: Path) -> None:
    """The same kills find a writer that writes in place."""
    (tmp_path / "whole").write_bytes(b"old")

    def work() -> None:
        Moments(tmp_path, 1, "torn", cut=0.5)
        with (tmp_path / "whole").open("wb") as file:
            file.write(b"new and longer")
            file.flush()
            os.fsync(file.fileno())

    assert in_a_fork(work) == -signal.SIGKILL
    assert (tmp_path / "whole").read_bytes() not in (b"old", b"new and longer")


def test_work_that_is_done_again_is_seen(tmp_path: Path) -> None:
    """The same line decoded again is equal to the one that was thrown away, so it has to be seen when it is appended."""
    file = tmp_path / "rollouts.jsonl"
    append_records(file, PROBLEMS[:2])
    kept = whole_lines(tree(tmp_path))

    def work() -> None:
        moments = Moments(tmp_path, None, "", cut=0)
        append_records(file, PROBLEMS[2:])
        append_records(file, [])
        file.unlink()
        append_records(file, PROBLEMS[:1])
        assert [(name, line.encode()) in kept for name, line in moments.appended] == [False, True]

    assert in_a_fork(work) == 0


@pytest.mark.parametrize("certified", [False, True])
def test_a_bundle_is_whole_after_a_kill_at_any_moment_of_a_certificate(tmp_path: Path, certified: bool) -> None:
    source = tmp_path / "source"
    stir.export_library(stir.open_run("two_habits"), source)
    name = "certificate-runtime.json"
    if certified:
        attach(source, name, b'{"of": "before"}')
    moments, ended = 0, -signal.SIGKILL
    while ended:
        moments += 1
        folder = shutil.copytree(source, tmp_path / f"bundle-{moments}")

        def work(folder: Path = folder, at: int = moments) -> None:
            Moments(folder, at, "torn", cut=0.5)
            attach(folder, name, b'{"of": "now"}')

        ended = in_a_fork(work)
        assert set(read_bundle(folder).manifest.files) - {name} == set(read_bundle(source).manifest.files) - {name}
        attach(folder, name, b'{"of": "now"}')
        assert read_bundle(folder).manifest.files.keys() == {file.name for file in folder.iterdir()} - {"manifest.json"}
    assert moments > 6
