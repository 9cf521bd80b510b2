"""Saved work on disk: one folder for each piece below ``saved/`` in the folder of runs, written once and never changed.

    saved/<id>/work.json  content.json  digests.json

A piece can be exported (a folder or a zip file) and added to another folder of runs. What comes from others is checked in full first.
"""

import io
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from stir_core.config import digest_of
from stir_core.errors import FAULTS, StoreError, line_of
from stir_core.records import ModelIdentity
from stir_core.saved import CONTENTS, SAVED_ID, SavedContent, SavedKind, SavedWork
from stir_core.store.files import copy_folder, file_sha256, flush_files, name_folder, remove_folder, temporary_beside, write_whole
from stir_core.store.jsonl import read_record, write_record
from stir_core.store.locks import PATIENCE, one_writer
from stir_core.store.runs import Run
from stir_core.store.seals import DIGESTS, check_file, read_seal, write_seal
from stir_core.version import VERSION

SAVED = "saved"
"""Name of the folder, below the folder of runs."""
WORK, CONTENT = "work.json", "content.json"
MOST_BYTES = 200_000_000
"""Largest content that is added from elsewhere."""
_ID = re.compile(SAVED_ID, re.ASCII)
_REMEDY = "copy or export it again"


class SavedFolder:
    """The saved work of one folder of runs. Any number of processes may read and write it at once.

    Args:
        runs: the folder of runs, e.g. ``"runs"``.
    """

    def __init__(self, runs: Path | str = "runs"):
        self._folder = Path(runs).resolve() / SAVED

    def keep(
        self, content: SavedContent, *, title: str, outcome: str, run: Run, model: ModelIdentity | None, id_: str | None = None
    ) -> SavedWork:
        """Write one piece.

        Args:
            content: the traces or measurements, with their settings.
            title: what was asked; cut to 300 characters, as ``outcome`` is.
            outcome: what came of it.
            run: the run that it belongs to.
            model: identity of the model that answered.
            id_: as :func:`new_id` makes it; ``None``: a new one.

        Raises:
            StoreError: the folder cannot be written, or the id is taken.
        """
        work = SavedWork(
            id=id_ or new_id(content.kind),
            kind=content.kind,
            title=_line(title),
            outcome=_line(outcome),
            run=run.name,
            run_digest=run_digest(run),
            model=model,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            made_by=VERSION,
        )
        with self._writing(), self._new(work.id) as part:
            write_record(part / WORK, work)
            write_whole(part / CONTENT, content.model_dump_json().encode("utf-8"))
            write_seal(part / DIGESTS, [part / WORK, part / CONTENT])
        return work

    def all(self) -> tuple[list[SavedWork], list[str]]:
        """Every piece, the latest first, and one line for each that cannot be read."""
        works: list[SavedWork] = []
        broken: list[str] = []
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if not _ID.fullmatch(folder.name):
                continue
            try:
                works.append(self.work(folder.name))
            except FAULTS as error:
                broken.append(line_of(error))
        return sorted(works, key=lambda work: (work.created, work.id), reverse=True), sorted(broken)

    def work(self, id_: str) -> SavedWork:
        """One piece without its content.

        Raises:
            StoreError: there is none of that id, or it is damaged.
        """
        folder = self._place(id_)
        work = _work(folder, folder.stat().st_mtime_ns)
        if work.id != id_:
            raise StoreError(f"{folder} holds {work.id}: give the folder its name back")
        return work

    def content(self, id_: str) -> SavedContent:
        """What was decoded or measured; see :mod:`stir_core.saved` for the records.

        Raises:
            StoreError: there is none of that id, or it is damaged.
        """
        return _content(self._place(id_))[1]

    def delete(self, id_: str) -> None:
        """Delete one piece.

        Raises:
            StoreError: there is none of that id, or the folder cannot be written.
        """
        with self._writing():
            remove_folder(self._place(id_))

    def export(self, id_: str, place: Path | str) -> Path:
        """Copy one piece to ``place``, a folder that does not exist yet, or a file if the name ends in ``.zip``.

        Raises:
            StoreError: there is none of that id, it is damaged, or there is something at ``place``.
        """
        place = Path(place)
        if place.exists():
            raise StoreError(f"{place} is there already: name another place")
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix == ".zip":
            write_whole(place, self.packed(id_))
        else:
            self.content(id_)
            copy_folder(self._place(id_), place)
        return place

    def packed(self, id_: str) -> bytes:
        """One piece as a zip file. Equal pieces give equal bytes.

        Raises:
            StoreError: there is none of that id, or it is damaged.
        """
        self.content(id_)
        folder, packed = self._place(id_), io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
            for name in (WORK, CONTENT, DIGESTS):
                file.writestr(zipfile.ZipInfo(f"{id_}/{name}"), (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
        return packed.getvalue()

    def add(self, source: Path | str) -> SavedWork:
        """Add what :meth:`export` wrote, a folder or a zip file. Adding the same piece again changes nothing.

        Raises:
            StoreError: it is no saved work, it is damaged, or another piece has the same id.
        """
        source = Path(source)
        if not source.is_dir():
            with _reading(source):
                return self.add_packed(source.read_bytes())
        with self._writing():
            return self._take(source)

    def add_packed(self, data: bytes) -> SavedWork:
        """Add a zip file, as :meth:`packed` makes it.

        Raises:
            StoreError: as for :meth:`add`.
        """
        work = temporary_beside(self._folder)
        with self._writing():
            try:
                _unpack(data, work)
                return self._take(work)
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def _take(self, source: Path) -> SavedWork:
        work, _ = _content(source)
        place = self._folder / work.id
        if not place.exists():
            with self._new(work.id) as part:
                for name in (WORK, CONTENT, DIGESTS):
                    shutil.copyfile(source / name, part / name)
        elif read_seal(place / DIGESTS) != read_seal(source / DIGESTS):
            raise StoreError(f"another piece of saved work has the id {work.id}: delete one of the two")
        return work

    @contextmanager
    def _new(self, id_: str) -> Iterator[Path]:
        """A folder to fill, which gets its name when it is whole. Call it as the writer."""
        place = self._folder / id_
        if place.exists():
            raise StoreError(f"there is saved work of the id {id_} already: save it under a new one")
        part = temporary_beside(place)
        try:
            part.mkdir(parents=True)
            yield part
            flush_files(part)
            name_folder(part, place)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _writing(self) -> AbstractContextManager[None]:
        return one_writer(self._folder, owns=(self._folder,), patience=PATIENCE)

    def _place(self, id_: str) -> Path:
        folder = self._folder / id_
        if not _ID.fullmatch(id_) or not folder.is_dir():
            raise StoreError(f"there is no saved work {id_!r} in {self._folder}: `stir saved` lists what there is")
        return folder


def new_id(kind: SavedKind) -> str:
    """An id that no other piece of saved work has."""
    return f"{kind}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def run_digest(run: Run) -> str:
    """Digest of a run's finished stages: the same for a copy of the run in another place."""
    return digest_of({stage: run.digest(stage) for stage in run.stages()})


@lru_cache(maxsize=4096)
def _work(folder: Path, mtime_ns: int) -> SavedWork:
    """``mtime_ns``: a piece never changes, so a folder with the same time is not read again."""
    return _read_work(folder, _sealed(folder))


def _content(folder: Path) -> tuple[SavedWork, SavedContent]:
    """A piece, checked in full."""
    digests = _sealed(folder)
    work = _read_work(folder, digests)
    file = folder / CONTENT
    with _reading(file):
        if file.stat().st_size > MOST_BYTES:
            raise StoreError(f"{file} has more than {MOST_BYTES // 1_000_000} MB, which no saved work has: {_REMEDY}")
        if file_sha256(file) != digests[CONTENT]:
            raise StoreError(f"{file} is not the file that was written: its SHA-256 is another; {_REMEDY}")
    return work, read_record(file, CONTENTS[work.kind], _REMEDY)


def _sealed(folder: Path) -> dict[str, str]:
    digests = read_seal(folder / DIGESTS)
    if digests.keys() != {WORK, CONTENT}:
        raise StoreError(f"{folder} is no saved work, or {DIGESTS} is missing from it: {_REMEDY}")
    return digests


def _read_work(folder: Path, digests: dict[str, str]) -> SavedWork:
    return read_record(check_file(folder / WORK, digests[WORK], _REMEDY), SavedWork, _REMEDY)


def _unpack(data: bytes, folder: Path) -> None:
    """The three files of a zip file into a new folder; whatever else is in it is refused."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            names = {info.filename.rpartition("/")[2]: info for info in file.infolist() if not info.is_dir()}
            if names.keys() != {WORK, CONTENT, DIGESTS} or len(names) != sum(not info.is_dir() for info in file.infolist()):
                raise StoreError(f"the zip file is no saved work: it must hold {WORK}, {CONTENT} and {DIGESTS}; {_REMEDY}")
            if sum(info.file_size for info in names.values()) > MOST_BYTES:
                raise StoreError(f"the zip file holds more than {MOST_BYTES // 1_000_000} MB, which no saved work has: {_REMEDY}")
            folder.mkdir(parents=True)
            for name, info in names.items():
                (folder / name).write_bytes(file.read(info))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise StoreError(f"the zip file cannot be read ({type(error).__name__}): {_REMEDY}") from None


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise StoreError(f"{file} is missing: {_REMEDY}") from None


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
