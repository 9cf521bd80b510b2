"""JSON lines that survive an interruption: appended as results arrive, read back whole.

A process that dies while it writes leaves a torn last line. :func:`read_appended` ignores it, so a resumed stage computes that one result
again; :func:`read_records` refuses it with its line number.
"""

import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from stir_core.errors import StoreError
from stir_core.records import Record
from stir_core.store.files import flush_folder, naming, write_whole, writing_whole

R = TypeVar("R", bound=Record)


def read_records(path: Path, kind: type[R]) -> list[R]:
    """All records of a JSON-lines file, in order.

    Raises:
        StoreError: the file is missing, or a line is not a valid record (the message gives its number).
    """
    return [_record(path, number, line, kind) for number, line in enumerate(_lines(path), start=1)]


class KeyedRecords(Mapping[Any, R], Generic[R]):
    """The records of a JSON-lines file by one or several of their fields, each read and validated when it is asked for.

    The file is looked through once for where its lines begin; what is held are places, and at most :data:`KEPT` records.

    Args:
        fields: a record's key is the value of this field, or a tuple of the values of these; best the first ones of each line.

    Raises:
        StoreError: the file is missing, or a line has no such field; on access: a line is not a valid record.
    """

    def __init__(self, path: Path, kind: type[R], *fields: str):
        self._path, self._kind, self._kept = path, kind, dict[Any, R]()
        self._places: dict[Any, tuple[int, int, int]] = {}
        first = re.compile(rb"\{" + b",".join(rb'"%s":("(?:[^"\\]|\\.)*"|-?\d+)' % field.encode() for field in fields) + b"[,}]")
        if not path.is_file():
            raise StoreError(f"{path} does not exist: run the stage that makes it")
        with naming(path), path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, start=1):
                found = first.match(line)
                try:
                    key = tuple(map(json.loads, found.groups() if found else ())) or tuple(json.loads(line)[field] for field in fields)
                except (ValueError, KeyError, TypeError):
                    raise StoreError(f"{path} line {number} has no {' and '.join(fields)}: make the stage again") from None
                self._places[key if len(fields) > 1 else key[0]] = start, len(line), number
                start += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __getitem__(self, key: Any) -> R:
        if key not in self._kept:
            start, size, number = self._places[key]
            with naming(self._path), self._path.open("rb") as file:
                file.seek(start)
                record = _record(self._path, number, file.read(size).decode("utf-8", "replace"), self._kind)
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[key] = record
        return self._kept[key]


KEPT = 10_000
"""Records that :class:`KeyedRecords` holds at most."""


def read_appended(path: Path, kind: type[R]) -> list[R]:
    """The records appended so far, without a torn last line; an empty list when there is no file.

    Raises:
        StoreError: a whole line is not a valid record.
    """
    lines = enumerate(_lines(path, torn=True) if path.is_file() else (), start=1)
    return [_record(path, number, line, kind) for number, line in lines]


def read_record(path: Path, kind: type[R], remedy: str) -> R:
    """The one record that a JSON file holds.

    Args:
        remedy: what to do when the file is missing or malformed, for the message.

    Raises:
        StoreError: missing or malformed.
    """
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path} is missing: {remedy}") from None
    except (ValidationError, UnicodeDecodeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.reason
        raise StoreError(f"{path} is not a {kind.__name__} ({reason}): {remedy}") from None


def check_free(path: Path, kind: type[Record]) -> None:
    """Refuse a file that holds something else than a record of this kind, which would be written over.

    Raises:
        StoreError: naming the file.
    """
    if path.exists():
        read_record(path, kind, "choose another --out, nothing there is overwritten")


def write_record(path: Path, record: Record) -> None:
    """Write one record as indented JSON, whole or not at all."""
    write_whole(path, (record.model_dump_json(indent=2) + "\n").encode("utf-8"))


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records, one a line, whole or not at all."""
    with writing_whole(path) as file:
        file.writelines(_line(record) for record in records)


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append records, flushed to the disk before returning; a torn last line left by a killed process is cut off first."""
    cut_torn_line(path)
    new = not path.exists()
    with naming(path), path.open("ab") as file:
        file.write(b"".join(_line(record) for record in records))
        file.flush()
        os.fsync(file.fileno())
    if new:
        flush_folder(path.parent)


def cut_torn_line(path: Path) -> None:
    """Remove an unfinished last line, if there is one."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _record(path: Path, number: int, line: str, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "line"
        raise StoreError(f"{path} line {number} is not a {kind.__name__}: {field}: {first['msg']}; make the stage again") from None


def _line(record: Record) -> bytes:
    return (record.model_dump_json() + "\n").encode("utf-8")


def _lines(path: Path, *, torn: bool = False) -> list[str]:
    """The lines of a file; ``torn``: without an unfinished last one, which may end inside a character."""
    try:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1] if torn else data
        return list(io.StringIO(whole.decode("utf-8"), newline="\n"))  # not splitlines(), which also splits at U+2028
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist: run the stage that makes it") from None
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): make the stage again") from None
