"""Progress lines: whole at every moment, the last one says how it ended."""

import pytest

from stir_core.errors import StoreError
from stir_core.records import Progress
from stir_core.store import progress
from stir_core.store.progress import ProgressFile, read_progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told to."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    return now


def test_lines_are_readable_while_it_runs_and_thinned_out(tmp_path, clock):
    file = tmp_path / "deep" / "p.jsonl"
    with ProgressFile(file) as lines:
        assert [line.state for line in read_progress(file)] == ["starting"]
        clock[0] += 3.0
        for done in range(101):
            lines.report(Progress("rollouts", done, 100, "rollouts", 10 * done))
            clock[0] += 0.05
        seen = read_progress(file)
        assert seen[1].done == 0 and seen[-1].done == 100 and seen[-1].seconds == pytest.approx(5.0)
        assert 20 < len(seen) < 40  # one in 0.2 s, not one in 0.05 s
        lines.report(Progress("states", 0, 4, "answers"))
        assert read_progress(file)[-1].seconds == 0.0  # a stage's own clock
    assert read_progress(file)[-1].state == "finished"


@pytest.mark.parametrize(("error", "state", "said"), [(KeyboardInterrupt(), "stopped", None), (ValueError("a\nb"), "failed", "a b")])
def test_an_exception_is_the_last_line_and_goes_on(tmp_path, clock, error, state, said):
    file = tmp_path / "p.jsonl"
    with pytest.raises(type(error)), ProgressFile(file) as lines:
        lines.report(Progress("rollouts", 0, 9, "rollouts"))
        lines.report(Progress("rollouts", 3, 9, "rollouts", 30))  # too soon to be written by itself, but never lost
        raise error
    last = read_progress(file)[-1]
    assert (last.state, last.error, last.stage, last.done, last.last) == (state, said, "rollouts", 3, True)


def test_a_second_attempt_goes_on_behind_a_torn_line(tmp_path, clock):
    file = tmp_path / "p.jsonl"
    with ProgressFile(file):
        pass
    with file.open("a") as out:
        out.write('{"at": 1001.0, "state": "runn')
    assert len(read_progress(file)) == 2
    clock[0] = 2000.0
    with ProgressFile(file):
        pass
    assert [line.state for line in read_progress(file, since=2000.0)] == ["starting", "finished"]
    assert len(read_progress(file)) == 4
    assert read_progress(tmp_path / "none") == []


def test_what_cannot_be_written_or_read_is_refused(tmp_path):
    (tmp_path / "file").write_text("x\n")
    with pytest.raises(StoreError, match="progress cannot be written"):
        ProgressFile(tmp_path / "file" / "p.jsonl")
    for text in ("line\nnot ended", "not ended", '{\n  "config": {}\n}\n'):  # a file of the user's, which a torn line would be cut off from
        (tmp_path / "notes.txt").write_text(text)
        with pytest.raises(StoreError, match="is not a progress file: choose another --progress"):
            ProgressFile(tmp_path / "notes.txt")
        assert (tmp_path / "notes.txt").read_text() == text
    with pytest.raises(StoreError, match="not a ProgressLine"):
        read_progress(tmp_path / "file")
