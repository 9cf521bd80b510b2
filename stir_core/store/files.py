"""Writing a file whole or not at all, and knowing a file by its bytes."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an ``OSError`` inside the file's name, which a failed write or flush lacks."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write bytes beside ``path``, flush them to the disk, then rename: a reader sees the old file or the new one, never half of one."""
    part = path.with_name(f"{path.name}.part")
    with naming(part), part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
