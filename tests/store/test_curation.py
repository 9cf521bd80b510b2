"""The history on disk: whole lines, chained, safe with two writers, tied to the entries that it was made on."""

import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stir_core.curation import UNTOUCHED, make_edit
from stir_core.errors import CurationError, StoreError
from stir_core.store import runs
from stir_core.store.curation import Curation, signature
from stir_core.store.runs import Run
from tests.curated_run import WHEN, curated_run

BY: dict[str, Any] = {"who": "mara", "when": WHEN}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return curated_run(tmp_path)


def test_an_empty_history_is_version_0_and_writes_nothing(run):
    curation = Curation.open(run)
    assert (len(curation), curation.digest, curation.strangers) == (0, "", ())
    assert curation.state.of("p0000c") == UNTOUCHED and curation.diff(0, 0) == ()
    assert not (run.path / "curation").exists()
    with pytest.raises(CurationError, match="no version 1: the history has versions 0 to 0"):
        curation.version(1)


def test_edits_are_read_back_as_they_were_made_and_any_version_can_be_shown(run):
    note = 'a "quoted"\nnote with \u2028 signs <b>and</b> \r\n more'
    Curation.open(run).add(
        make_edit("star", ["p0000c"], **BY),
        make_edit("tag", ["p0000c", "p0001c"], "carry step", why="seen twice", **BY),
        make_edit("note", ["p0001c"], note, **BY),
    )
    Curation.open(run).add(make_edit("exclude", ["p0001c"], why="pure length", **BY))
    again = Curation.open(run)
    assert [line.edit.kind for line in again.lines] == ["star", "tag", "note", "exclude"]
    assert again.state.of("p0001c").note == note and again.state.of("p0001c").excluded
    assert again.version(1).of("p0000c").starred and again.version(1).of("p0001c") == UNTOUCHED
    assert again.version(0).entries == {}
    changed = {(c.entry_id, c.field, c.before, c.after) for c in again.diff(1, 4)}
    assert changed == {
        ("p0000c", "tags", "", "carry step"),
        ("p0001c", "tags", "", "carry step"),
        ("p0001c", "note", "", note),
        ("p0001c", "library", "", "excluded"),
    }
    assert {(c.field, c.after, c.before) for c in again.diff(4, 1)} == {(c[1], c[2], c[3]) for c in changed}


def test_one_edit_is_signed_and_appended(run, monkeypatch):
    monkeypatch.setenv("STIR_USER", "mara")
    after = Curation.open(run).edit("star", "p0000c").edit("tag", ["p0000c", "p0001c"], "early", why="first half")
    by_hand = [make_edit("star", ["p0000c"], **BY), make_edit("tag", ["p0000c", "p0001c"], "early", why="first half", **BY)]
    assert [line.edit.model_copy(update={"when": WHEN}) for line in after.lines] == by_hand
    assert Curation.open(run).digest == after.digest
    with pytest.raises(CurationError, match="takes no value"):
        after.edit("star", "p0001c", "much")


def test_edits_come_all_or_none(run):
    with pytest.raises(CurationError, match="no entry 'p9999c'"):
        Curation.open(run).add(make_edit("star", ["p0000c"], **BY), make_edit("star", ["p9999c"], **BY))
    assert len(Curation.open(run)) == 0


def lines_of(run: Run) -> list[str]:
    return (run.path / "curation" / "edits.jsonl").read_text().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda lines: [lines[0], lines[1].replace("mara", "tara"), lines[2]], "line 3 does not follow line 2"),
        (lambda lines: [lines[0], lines[2]], "line 2 does not follow line 1"),
        (lambda lines: lines[1:], "line 1 does not follow"),
        (lambda lines: [lines[1], lines[0], lines[2]], "line 1 does not follow"),
        (lambda lines: lines[:2], "has 2 edits where 3 were made"),
        (lambda lines: [], "has 0 edits where 3 were made"),
        (lambda lines: [*lines[:2], lines[2].replace("mara", "tara")], "line 3 is not the line that was written"),
        (lambda lines: [lines[0], "{}\n", lines[2]], "line 2 is not an edit"),
        (lambda lines: [*lines[:2], lines[2][:-9]], "has 2 edits where 3 were made"),
    ],
)
def test_a_changed_or_lost_line_is_noticed_in_one_line(run, harm, what):
    before = Curation.open(run).add(*(make_edit("tag", ["p0000c"], f"t{i}", **BY) for i in range(3)))
    file = run.path / "curation" / "edits.jsonl"
    file.write_text("".join(harm(lines_of(run))))
    with pytest.raises(CurationError, match=what) as raised:
        Curation.open(run)
    assert "move it away to begin a new history" in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(CurationError, match=what):  # nor is anything written behind it
        before.add(make_edit("star", ["p0001c"], **BY))


def test_a_line_torn_by_a_killed_writer_is_forgotten_and_cut_off(run):
    curation = Curation.open(run).add(make_edit("star", ["p0000c"], **BY))
    with (run.path / "curation" / "edits.jsonl").open("a") as file:
        file.write('{"number": 2, "acti')
    assert len(Curation.open(run)) == 1
    assert len(curation.add(make_edit("star", ["p0001c"], **BY))) == 2
    assert Curation.open(run).state.starred() == ("p0000c", "p0001c")


def test_a_writer_killed_between_line_and_head_has_lost_nothing(run):
    Curation.open(run).add(make_edit("star", ["p0000c"], **BY))
    head = (run.path / "curation" / "head.json").read_bytes()
    Curation.open(run).add(make_edit("star", ["p0001c"], **BY))
    (run.path / "curation" / "head.json").write_bytes(head)
    assert len(Curation.open(run)) == 2
    assert len(Curation.open(run).add(make_edit("unstar", ["p0001c"], **BY))) == 3


def _write_many(path: str, name: str) -> None:
    run = Run.open(path)
    stale = Curation.open(run)  # both hold the empty history when they begin
    for i in range(15):
        stale.add(make_edit("tag", ["p0000c"], f"{name}{i}", **BY))


def test_two_writers_lose_nothing(run):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(run.path), name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    found = Curation.open(run)
    assert len(found) == 30
    assert set(found.state.of("p0000c").tags) == {f"{name}{i}" for name in "ab" for i in range(15)}


def test_a_history_that_another_process_holds_is_refused_in_one_line(run, monkeypatch):
    history = Curation.open(run).add(make_edit("star", ["p0000c"], **BY))
    lock = run.path / "curation.lock"
    hold = f"import filelock, sys; held = filelock.FileLock({str(lock)!r}); held.acquire(); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        monkeypatch.setattr("stir_core.store.curation.PATIENCE", 0.0)
        with pytest.raises(CurationError, match="curation is being written to by another process; wait for it, or end that process"):
            history.add(make_edit("star", ["p0001c"], **BY))
        holder.kill()
    assert len(history.add(make_edit("star", ["p0001c"], **BY))) == 2  # it let go as it died
    assert lock.is_file()


def test_undo_is_a_further_edit(run):
    curation = Curation.open(run).add(make_edit("star", ["p0000c", "p0001c"], **BY))
    curation = curation.undo(1, who="tom", when=WHEN, why="wrong ones")
    assert [line.edit.kind for line in curation.lines] == ["star", "unstar"]
    assert curation.lines[1].edit.undoes == 1 and curation.state.starred() == ()
    with pytest.raises(CurationError, match="nothing of edit 1"):
        curation.undo(1, **BY)
    assert curation.undo(2, **BY).state.starred() == ("p0000c", "p0001c")
    with pytest.raises(CurationError, match="no edit 9"):
        curation.undo(9, **BY)


def test_edits_of_other_entries_are_kept_and_never_applied(run):
    """A run made again has entries of the same names that are other actions."""
    Curation.open(run).add(make_edit("exclude", ["p0000c"], **BY), make_edit("star", ["p0001c"], **BY))
    manifest = run.path / "actions" / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["files"]["actions.safetensors"] = "0" * 64
    manifest.write_text(json.dumps(facts))
    again = Curation.open(Run.open(run.path))
    assert len(again) == len(again.strangers) == 2 and again.state.entries == {}
    with pytest.raises(CurationError, match="no edit 1 that applies"):
        again.undo(1, **BY)
    again = again.add(make_edit("tag", ["p0000c"], "new", **BY))
    assert again.state.of("p0000c").tags == ("new",) and not again.state.of("p0000c").excluded
    assert [line.number for line in again.strangers] == [1, 2]


def test_the_embedded_runs_own_folder_is_never_written_to(run, tmp_path, monkeypatch):
    Curation.open(run).add(make_edit("star", ["p0000c"], **BY))
    shutil.move(run.path, tmp_path / "embedded-home")
    monkeypatch.setattr(runs, "EMBEDDED_RUNS", {"home": tmp_path / "embedded-home"})
    monkeypatch.setenv("STIR_RUNS", str(tmp_path / "store"))
    embedded = Run.open(tmp_path / "embedded-home")
    before = {file: file.read_bytes() for file in embedded.path.rglob("*") if file.is_file()}
    found = Curation.open(embedded)
    assert found.state.starred() == ("p0000c",)
    found.add(make_edit("star", ["p0001c"], **BY))
    assert {file: file.read_bytes() for file in embedded.path.rglob("*") if file.is_file()} == before
    assert Curation.open(embedded).state.starred() == ("p0000c", "p0001c")
    assert (tmp_path / "store" / "embedded" / "embedded-home" / "curation" / "edits.jsonl").is_file()


def test_ten_thousand_edits_are_read_and_added_to_in_seconds(run):
    began = time.process_time()
    Curation.open(run).add(*(make_edit("note", [f"p{i % 8:04d}c"], f"note {i}", **BY) for i in range(10_000)))
    curation = Curation.open(run)
    assert curation.state.of("p0007c").note == "note 9999"
    assert curation.version(8).of("p0007c").note == "note 7"
    assert time.process_time() - began < 8  # a quarter of that without the checks of shapes and types


def test_a_run_without_actions_and_a_nameless_user_are_refused(run, monkeypatch):
    assert signature().who and signature().when.endswith("Z")
    monkeypatch.setenv("STIR_USER", "Mara O'Neil")
    assert make_edit("star", ["a"], who=signature().who, when=signature().when).who == "Mara O'Neil"
    shutil.rmtree(run.path / "actions")
    with pytest.raises(StoreError, match='no finished stage "actions"'):
        Curation.open(run)
