"""A harvest watched while it is sampled: the same figures as counted afterwards, nothing read twice, and nothing written."""

import shutil
from pathlib import Path

import pytest
from fake_run import NASTY, make_fake_run

from stir_core.cli import main
from stir_core.errors import StoreError
from stir_core.records import Rollout
from stir_core.store.jsonl import read_records
from stir_core.store.locks import one_writer
from stir_core.store.runs import Run
from stir_core.store.watching import LAST, HarvestSoFar, HarvestWatch


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose rollouts are all written, but not yet sealed."""
    made = make_fake_run(tmp_path, "live", "rollouts")
    (made.path / "rollouts").rename(made.part("rollouts"))
    (made.part("rollouts") / "manifest.json").rename(tmp_path / "manifest.json")
    return made


def check(found: HarvestSoFar | None, rollouts: list[Rollout]) -> None:
    assert found is not None
    assert (found.done, found.total, found.tokens) == (len(rollouts), 32, sum(rollout.n_tokens for rollout in rollouts))
    assert sum(map(sum, found.right.values())) == sum(rollout.verdict.correct for rollout in rollouts)
    assert found.cut == sum(rollout.finish == "length" for rollout in rollouts)
    assert found.last == tuple(reversed(rollouts))[:LAST]


def test_each_look_is_what_counting_gives_and_nothing_is_written(run: Run, tmp_path: Path) -> None:
    file = run.part("rollouts") / "rollouts.jsonl"
    all_of_them, data = read_records(file, Rollout), file.read_bytes()
    lines = data.splitlines(keepends=True)
    watch = HarvestWatch(run)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:40])  # the fourth is being written
    check(watch.look(10.0), all_of_them[:3])
    file.write_bytes(b"".join(lines[:20]))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in run.path.rglob("*")}
    found = watch.look(14.0)
    check(found, all_of_them[:20])
    assert found and found.rate == pytest.approx(sum(rollout.n_tokens for rollout in all_of_them[3:20]) / 4)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in run.path.rglob("*")} == before
    file.write_bytes(data)
    shutil.copy(tmp_path / "manifest.json", file.parent)
    run.part("rollouts").rename(run.path / "rollouts")
    found = watch.look(15.0)
    check(found, all_of_them)
    assert found and found.finished
    check(HarvestWatch(run).look(0.0), all_of_them)


def test_an_attempt_that_begins_anew_is_counted_anew(run: Run) -> None:
    file = run.part("rollouts") / "rollouts.jsonl"
    rollouts, watch = read_records(file, Rollout), HarvestWatch(run)
    check(watch.look(0.0), rollouts)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]))
    check(watch.look(1.0), rollouts[:2])
    file.write_bytes(file.read_bytes() + b"{}\n")
    with pytest.raises(StoreError, match="no rollout"):
        watch.look(2.0)
    shutil.rmtree(file.parent)
    assert HarvestWatch(run).look(0.0) is None


def test_the_command_says_who_is_right_as_text_and_whether_anyone_writes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = run.part("rollouts") / "rollouts.jsonl"
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    words = ["watch", str(run.path), "--once", "--text"]
    assert main(words) == 1
    told = capsys.readouterr()
    assert NASTY in told.out and "1 of 32 rollouts" in told.out and "no process writes this run" in told.err
    with one_writer(run.path / "run", of=run.path):
        assert main(words) == 0
    assert not capsys.readouterr().err
    assert main(["watch", str(run.path), "--every", "0"]) == 2
    assert "give 0.1 to 3600 seconds" in capsys.readouterr().err
