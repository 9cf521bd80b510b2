"""The history of a run's curation on disk: one line for each edit, appended under a lock, with the digest of the line before it.

    curation/edits.jsonl     one ``Recorded`` a line; never rewritten
    curation/head.json       number of lines and digest of the last one, so that a lost end is noticed too
    curation.lock            held during a write

It is written below ``Run.work``, so that the embedded run's own folder stays as it is. Edits belong to the entries that they were made on:
if the actions stage is made again with another result, they are kept and reported, and do not apply.
"""

import getpass
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from stir_core.curation import Difference, Edit, EditKind, Judgement, Recorded, changes, check, fold, make_edit, taken_back
from stir_core.errors import CurationError
from stir_core.records import Entry
from stir_core.store.files import copy_folder, write_whole
from stir_core.store.jsonl import cut_torn_line
from stir_core.store.locks import PATIENCE, one_writer
from stir_core.store.runs import Run


class Curation:
    """A run's history of edits as it was when read. Adding an edit gives a new history."""

    def __init__(self, run: Run, lines: tuple[Recorded, ...], digest: str):
        self.run = run
        self.lines = lines
        """Every edit, including those that do not apply."""
        self.digest = digest
        """SHA-256 of the last line; ``""`` for an empty history. Equal digests mean equal histories."""
        self.actions = run.digest("actions")

    @classmethod
    def open(cls, run: Run) -> "Curation":
        """Read the history; an empty one if the run was not curated yet.

        Raises:
            CurationError: a line was changed or lost.
            StoreError: the run has no finished actions.
        """
        run.folder("actions")
        return cls(run, *_read(run.derived("curation")))

    def __len__(self) -> int:
        return len(self.lines)

    def applies(self, line: Recorded) -> bool:
        """True when the edit was made on the entries that the run has now."""
        return line.actions == self.actions

    @property
    def strangers(self) -> tuple[Recorded, ...]:
        """Edits of entries that the run no longer has. They are kept, and never applied."""
        return tuple(line for line in self.lines if not self.applies(line))

    @cached_property
    def state(self) -> Judgement:
        """The judgement after all edits."""
        return self.version(len(self.lines))

    def version(self, n: int) -> Judgement:
        """The judgement after the first ``n`` edits.

        Raises:
            CurationError: there are fewer edits.
        """
        if not 0 <= n <= len(self.lines):
            raise CurationError(f"there is no version {n}: the history has versions 0 to {len(self.lines)}")
        return fold(line.edit for line in self.lines[:n] if self.applies(line))

    def diff(self, a: int, b: int) -> tuple[Difference, ...]:
        """The differences of version ``b`` from version ``a``."""
        return changes(self.version(a), self.version(b))

    def add(self, *edits: Edit) -> "Curation":
        """Append edits, all or none, after the edits that another writer appended in the meantime.

        Raises:
            CurationError: an edit that is not possible after those, or the folder cannot be written.
        """
        return _append(self.run, lambda fresh: edits)

    def edit(self, kind: EditKind, entries: str | Iterable[str], value: str | None = None, *, why: str = "") -> "Curation":
        """Make one edit and append it, signed as :func:`signature` says: ``Curation.open(run).edit("exclude", "p0043c", why="...")``.

        Args:
            kind: ``"star"``, ``"tag"``, ``"note"``, ``"exclude"``, ``"include"``, ``"reselect"``, ``"rename"``, ``"merge"``, ``"unstar"``,
                ``"untag"`` or ``"split"``.
            entries: ids of entries, or one of them.
            value: the tag, the note or the name, for the kinds that take one.
            why: the reason, kept with the edit.

        Raises:
            CurationError: an edit that cannot be made, or the folder cannot be written.
        """
        who, when = signature()
        ids = (entries,) if isinstance(entries, str) else entries
        return self.add(make_edit(kind, ids, value, who=who, when=when, why=why))

    def undo(self, number: int, *, who: str, when: str, why: str = "") -> "Curation":
        """Take an edit back, by further edits.

        Raises:
            CurationError: no such edit, it does not apply here, or later edits have replaced all of it.
        """

        def inverse(fresh: "Curation") -> tuple[Edit, ...]:
            return taken_back(number, [line for line in fresh.lines if fresh.applies(line)], who=who, when=when, why=why)

        return _append(self.run, inverse)


class Signature(NamedTuple):
    """Author and time of an edit; asked for here, since ``curation`` knows no clock."""

    who: str
    when: str


def signature() -> Signature:
    """``STIR_USER``, else the system's user name; and the time, in UTC."""
    try:
        who = os.environ.get("STIR_USER") or getpass.getuser()
    except (OSError, KeyError):  # no such user on this machine, as in some containers
        raise CurationError("the author of the edit is not known: set STIR_USER to your name") from None
    return Signature(who, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def _append(run: Run, edits_on: Callable[[Curation], tuple[Edit, ...]]) -> Curation:
    folder = run.work / "curation"
    try:
        with one_writer(run.work / "curation", owns=(folder,), patience=PATIENCE, kind=CurationError):
            if not folder.exists() and (shipped := run.derived("curation")).is_dir():
                copy_folder(shipped, folder)
            folder.mkdir(exist_ok=True)
            cut_torn_line(folder / "edits.jsonl")
            fresh = Curation(run, *_read(folder))
            lines, digest = _lines_of(fresh, edits_on(fresh))
            if not lines:
                return fresh
            with (folder / "edits.jsonl").open("ab") as file:
                file.write("".join(lines).encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            head = {"edits": len(fresh.lines) + len(lines), "digest": digest}
            write_whole(folder / "head.json", (json.dumps(head) + "\n").encode("utf-8"))
            return Curation(run, *_read(folder))
    except OSError as error:
        raise CurationError(f"{folder} cannot be written ({error.strerror}): allow writing to the folder, or free the disk") from None


def _lines_of(fresh: Curation, edits: tuple[Edit, ...]) -> tuple[list[str], str]:
    """The lines to append, each edit checked after those before it, and the digest of the last line."""
    entries: dict[str, Entry] = {entry.id: entry for entry in fresh.run.entries()}
    made_of_codes = {entry.id for entry in fresh.run.codes_library().entries} if fresh.run.finished("codes") else set()
    standing, digest, lines = fresh.state, fresh.digest, []
    for edit in edits:
        if id_ := next((id_ for id_ in edit.entries if id_ in made_of_codes), None):
            raise CurationError(
                f"{id_} is made of a code of steps, and only mined entries are curated: choose at export (--library codes --only ids:A,B)"
            )
        check(edit, standing, entries)
        standing = fold((edit,), standing)
        record = Recorded(number=len(fresh.lines) + len(lines) + 1, actions=fresh.actions, before=digest, edit=edit)
        line = record.model_dump_json() + "\n"
        lines.append(line)
        digest = _sha256(line.encode("utf-8"))
    return lines, digest


def _read(folder: Path) -> tuple[tuple[Recorded, ...], str]:
    """Every whole line, each checked against the one before, and the digest of the last."""
    file = folder / "edits.jsonl"
    count, wanted = _head(folder / "head.json")  # first: a writer may append while the lines are read
    records: list[Recorded] = []
    digest, marked = "", ""
    for number, line in enumerate(file.read_bytes().splitlines(keepends=True) if file.is_file() else (), start=1):
        if not line.endswith(b"\n"):
            break  # torn: the writer died before it ended the line
        try:
            record = Recorded.model_validate_json(line)
        except ValidationError as error:
            raise CurationError(f"{file} line {number} is not an edit ({error.errors()[0]['msg']}): {_REMEDY}") from None
        if record.number != number or record.before != digest:
            raise CurationError(f"{file} line {number} does not follow line {number - 1}, which was changed or lost: {_REMEDY}")
        records.append(record)
        digest = _sha256(line)
        marked = digest if number == count else marked
    if len(records) < count:
        raise CurationError(f"{file} has {len(records)} edits where {count} were made: {_REMEDY}")
    if marked != wanted:
        raise CurationError(f"{file} line {count} is not the line that was written, it was changed: {_REMEDY}")
    return tuple(records), digest


_REMEDY = "restore the curation folder from a copy, or move it away to begin a new history"


def _head(file: Path) -> tuple[int, str]:
    if not file.is_file():
        return 0, ""
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
        return int(head["edits"]), str(head["digest"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CurationError(f"{file} does not hold a number of edits and a digest: {_REMEDY}") from None


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
