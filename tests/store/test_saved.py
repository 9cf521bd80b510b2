"""Saved work: whole or not there, two writers lose nothing, a damaged piece is one line, and a copy opens elsewhere."""

import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stir_core.config import GateConfig
from stir_core.errors import StoreError
from stir_core.saved import FlippedAnswer, SavedRedecision, SavedWork
from stir_core.store import saved as module
from stir_core.store.runs import Run
from stir_core.store.saved import CONTENT, WORK, SavedFolder, new_id, run_digest
from stir_core.store.seals import DIGESTS

FLIP = FlippedAnswer(problem="p/1", m=2, change="null → action", recorded="null", now="p0003c × 0.5", why="<b>margin</b>")


def content(n: int = 0) -> SavedRedecision:
    return SavedRedecision(own=GateConfig(), gate=GateConfig(beta=0.25), answers=n, known=9, flipped=1, flips=(FLIP,))


def keep(folder: SavedFolder, n: int = 0, title: str = "a title", id_: str | None = None) -> SavedWork:
    return folder.keep(content(n), title=title, outcome="1 flips", run=Run.open("two_habits"), model=None, id_=id_)


@pytest.fixture
def folder(tmp_path: Path) -> SavedFolder:
    return SavedFolder(tmp_path / "runs")


def test_what_is_kept_comes_back_equal_and_is_listed_latest_first(folder: SavedFolder) -> None:
    assert folder.all() == ([], [])
    kept = [keep(folder, n, title=f"title\n{n} " + "x" * 400) for n in range(3)]
    works, broken = folder.all()
    assert sorted(works, key=lambda work: work.title) == kept and not broken
    assert [work.created for work in works] == sorted((work.created for work in kept), reverse=True)
    for n, work in enumerate(kept):
        assert folder.content(work.id) == content(n) and folder.work(work.id) == work
        assert "\n" not in work.title and len(work.title) == 300 and work.run_digest == run_digest(Run.open("two_habits"))


def test_an_id_is_taken_once(folder: SavedFolder) -> None:
    first = keep(folder, 1, id_=new_id("re-decision"))
    with pytest.raises(StoreError, match="already: save it under a new one"):
        keep(folder, 2, id_=first.id)
    assert folder.content(first.id) == content(1)


def test_a_write_that_fails_leaves_nothing(folder: SavedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = keep(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_seal", full)
        with pytest.raises(OSError, match="No space left"):
            keep(folder, 1)
    assert [path.name for path in (tmp_path / "runs" / "saved").iterdir()] == [first.id]
    assert folder.all() == ([first], [])


WRITE = """
import sys
sys.path.insert(0, sys.argv[2])
from test_saved import SavedFolder, keep
for n in range(8):
    keep(SavedFolder(sys.argv[1]), n, title=sys.argv[3])
"""


def test_two_processes_that_write_at_once_lose_nothing(folder: SavedFolder, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path / "runs"), str(Path(__file__).parent)]
    writers = [subprocess.Popen([*command, name]) for name in ("one", "two")]
    mine = [keep(folder, n, title="here") for n in range(8)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    works, broken = folder.all()
    assert sorted(work.title for work in works) == ["here"] * 8 + ["one"] * 8 + ["two"] * 8 and not broken
    assert {work.id for work in mine} < {work.id for work in works}
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["saved", "saved.lock"]


def test_only_what_is_asked_for_is_deleted(folder: SavedFolder) -> None:
    one, other = keep(folder, 1), keep(folder, 2)
    folder.delete(one.id)
    assert folder.all() == ([other], [])
    for id_ in (one.id, "../runs", "", f"{other.id}/..", "trace"):
        with pytest.raises(StoreError, match="there is no saved work"):
            folder.delete(id_)
    assert folder.content(other.id) == content(2)


@pytest.mark.parametrize("name", ["piece", "piece.zip"])
def test_a_copy_opens_elsewhere_and_a_second_one_changes_nothing(folder: SavedFolder, tmp_path: Path, name: str) -> None:
    work = keep(folder, 5)
    place = folder.export(work.id, tmp_path / "sent" / name)
    with pytest.raises(StoreError, match="is there already"):
        folder.export(work.id, place)
    other = SavedFolder(tmp_path / "colleague")
    assert other.add(place) == other.add(place) == work
    assert other.all() == ([work], []) and other.content(work.id) == content(5)


@pytest.mark.parametrize("damaged", [WORK, CONTENT, DIGESTS])
@pytest.mark.parametrize("how", ["cut", "changed", "missing"])
def test_a_damaged_piece_is_one_line_and_is_not_added(folder: SavedFolder, tmp_path: Path, damaged: str, how: str) -> None:
    kept = keep(folder)
    other = SavedFolder(tmp_path / "colleague")
    place = folder.export(kept.id, tmp_path / "piece")
    file = place / damaged
    data = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-9] if how == "cut" else data.replace(b"9", b"8") if b"9" in data else data.replace(b"a", b"b"))
        assert file.read_bytes() != data
    with pytest.raises(StoreError) as refusal:
        other.add(place)
    assert "\n" not in str(refusal.value) and str(place) in str(refusal.value)
    assert other.all() == ([], [])
    own = tmp_path / "runs" / "saved" / kept.id
    shutil.copytree(place, own.with_name("trace-20261128-010203-00000000"))
    shutil.rmtree(own)
    works, broken = folder.all()
    assert len(works) + len(broken) <= 1
    for work in [*works, None]:
        with pytest.raises(StoreError):
            folder.content(work.id if work else "trace-20261128-010203-00000000")


def test_a_zip_file_with_anything_else_is_refused(folder: SavedFolder, tmp_path: Path) -> None:
    packed = folder.packed(keep(folder).id)
    other = SavedFolder(tmp_path / "colleague")
    extra = io.BytesIO(packed)
    with zipfile.ZipFile(extra, "a") as file:
        file.writestr("../../evil.json", "{}")
    for data, said in ((extra.getvalue(), "is no saved work"), (b"PK", "cannot be read"), (packed[: len(packed) // 2], "cannot be read")):
        with pytest.raises(StoreError, match=said):
            other.add_packed(data)
    begin = packed.index(b"content.json") + len(b"content.json")
    for at in range(begin, begin + 60, 4):  # within what is packed of one file
        with pytest.raises(StoreError, match="cannot be read"):
            other.add_packed(packed[:at] + bytes(255 - byte for byte in packed[at : at + 4]) + packed[at + 4 :])
    assert other.all() == ([], []) and not list(tmp_path.rglob("evil.json"))


def test_another_piece_under_the_same_id_is_refused(folder: SavedFolder, tmp_path: Path) -> None:
    id_ = new_id("re-decision")
    other = SavedFolder(tmp_path / "colleague")
    keep(folder, 1, id_=id_)
    keep(other, 2, id_=id_)
    with pytest.raises(StoreError, match="another piece of saved work has the id"):
        other.add_packed(folder.packed(id_))
    assert other.content(id_) == content(2)
