"""JSON lines that survive being cut off: appended as results happen, read back whole.

A process that dies in the middle of a line leaves a torn last line; :func:`read_records` with ``torn="drop"`` forgets it
(a resumed stage redoes that one result), everything else refuses it with the line number.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from stir_core.errors import StoreError
from stir_core.records import Record

R = TypeVar("R", bound=Record)


def read_records(path: Path, kind: type[R], *, torn: Literal["error", "drop"] = "error") -> list[R]:
    """All records of a JSON-lines file, in order.

    Raises:
        StoreError: the file is missing, or a line is not a valid record (named by its number).
    """
    records: list[R] = []
    for number, line in enumerate(_lines(path), start=1):
        if torn == "drop" and not line.endswith("\n"):
            break
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "line"
            raise StoreError(f"{path} line {number} is not a {kind.__name__}: {field}: {first['msg']}; make the stage again") from None
    return records


def read_record(path: Path, kind: type[R], remedy: str) -> R:
    """The one record that a JSON file holds.

    Args:
        remedy: what to do when it is missing or malformed, for the refusal.

    Raises:
        StoreError: missing or malformed.
    """
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path} is missing: {remedy}") from None
    except (ValidationError, UnicodeDecodeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.reason
        raise StoreError(f"{path} is not a {kind.__name__} ({what}): {remedy}") from None


def write_record(path: Path, record: Record) -> None:
    """Write one record as indented JSON."""
    path.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records to a new file, flushed to the disk before returning."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(record.model_dump_json() + "\n" for record in records)
        file.flush()
        os.fsync(file.fileno())


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append records; a torn last line left by a killed process is cut off first."""
    cut_torn_line(path)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.writelines(record.model_dump_json() + "\n" for record in records)
        file.flush()
        os.fsync(file.fileno())


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


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            return file.readlines()
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist: run the stage that makes it") from None
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): make the stage again") from None
