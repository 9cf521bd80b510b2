"""One writer for a folder: a second one is refused by name, and a dead one's lock is free."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stir_core.errors import StoreError
from stir_core.store.files import OURS, clear_leftovers, copy_folder, name_folder, remove_folder, temporary_beside, write_whole
from stir_core.store.locks import one_writer

HOLD = """
import sys
from pathlib import Path
from stir_core.store.locks import one_writer
with one_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of ``tmp_path / "run"``."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_by_name_and_a_dead_ones_lock_is_taken(tmp_path, holder):
    named = rf"run is being written to by .*process {holder.pid}, since .*; wait for it, or end that process"
    with pytest.raises(StoreError, match=named), one_writer(tmp_path / "run"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run.writer.json").is_file(), "the dead process could not remove its record"
    with one_writer(tmp_path / "run"), pytest.raises(StoreError, match=f"process {os.getpid()}"), one_writer(tmp_path / "run"):
        pass
    assert not (tmp_path / "run.writer.json").exists()


def test_only_the_leftovers_of_a_place_are_cleared(tmp_path):
    mine, other = temporary_beside(tmp_path / "a"), temporary_beside(tmp_path / "b")
    foreign = tmp_path / f".a.notes{OURS}"
    for file in (mine, other, foreign):
        file.write_text("x")
    inner = temporary_beside(tmp_path / "a" / "file")
    inner.parent.mkdir()
    inner.write_text("x")
    with one_writer(tmp_path / "lock", owns=[tmp_path / "a"]):
        assert [file.exists() for file in (mine, inner, other, foreign)] == [False, False, True, True]
    clear_leftovers(tmp_path / "none")


def test_folders_are_copied_replaced_and_removed_by_name(tmp_path):
    write_whole(tmp_path / "one.txt", b"1")
    for name, text in (("old", b"old"), ("new", b"new")):
        (tmp_path / name).mkdir()
        write_whole(tmp_path / name / "file", text)
    copy_folder(tmp_path / "new", tmp_path / "copy")
    name_folder(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_bytes() == (tmp_path / "copy" / "file").read_bytes() == b"new"
    remove_folder(tmp_path / "old")
    remove_folder(tmp_path / "old")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy", "one.txt"]
