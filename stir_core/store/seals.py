"""Believing a file only after a check: its SHA-256 is compared when it is first read in a process, and again when the file has changed.

Stages have the digests of their files in their manifest. Studies (evaluations, causal studies), critical tokens and calibrations get a
*seal* when they are complete: a small JSON file with the digests, which is removed before the study is continued. Files that were made
before there were seals have none, and are read unchecked.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal

from stir_core.errors import StoreError
from stir_core.records import Record
from stir_core.store.files import file_sha256
from stir_core.store.jsonl import read_record, write_record

DIGESTS = "digests.json"
"""Name of a study's seal, and end of the name of the others."""


class Seal(Record):
    """The SHA-256 of every file of a finished study."""

    schema_version: Literal[1] = 1
    files: dict[str, str]
    """By path below the seal's folder."""


def check_file(path: Path, digest: str, remedy: str) -> Path:
    """The path of a file that has this SHA-256.

    Raises:
        StoreError: it is missing, or another file.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise StoreError(f"{path} is missing: {remedy}") from None
    if _sha256(path, stat.st_size, stat.st_mtime_ns, stat.st_ino) != digest:
        raise StoreError(f"{path} is not the file that was written: its SHA-256 is another; {remedy}")
    return path


@lru_cache(maxsize=8192)
def _sha256(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    return file_sha256(path)


def write_seal(seal: Path, files: Iterable[Path]) -> None:
    """Write the digests of files at or below the seal's folder."""
    write_record(seal, Seal(files={file.relative_to(seal.parent).as_posix(): file_sha256(file) for file in sorted(files)}))


def read_seal(seal: Path) -> dict[str, str]:
    """Digests by path; empty where there is no seal.

    Raises:
        StoreError: it is malformed, or of a later version of this program.
    """
    remedy = "copy the folder again, or update stir-workbench"
    return read_record(seal, Seal, remedy).files if seal.is_file() else {}


def as_sealed(seal: Path, file: Path, remedy: str) -> Path:
    """The path of a file that is what its seal says; a file that no seal names is not checked.

    Raises:
        StoreError: it is missing or another file, or the seal is malformed.
    """
    digest = read_seal(seal).get(file.relative_to(seal.parent).as_posix())
    return file if digest is None else check_file(file, digest, remedy)
