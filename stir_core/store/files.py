"""Writing and removing whole files and folders: after a kill at any moment a name holds all of its content, or the name is not there.

Everything is written under a temporary name beside its place, flushed to the disk, and renamed. A folder is renamed before it is deleted.
Temporary names are random, begin with the name that they stand in for, and end in :data:`OURS`, so that a writer clears away its own
leftovers and nothing else.
"""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

OURS = ".stir-part"
"""End of every temporary name of ours. They begin with a dot."""
_TEMPORARY = re.compile(rf"\..*\.[0-9a-f]{{16}}{re.escape(OURS)}", re.DOTALL)


def temporary_beside(path: Path) -> Path:
    """A new random name in the folder of ``path``."""
    return path.with_name(f"{_stem(path)}{secrets.token_hex(8)}{OURS}")


def _stem(path: Path) -> str:
    name = os.fsencode(path.name)
    return f".{path.name if len(name) <= 100 else hashlib.sha256(name).hexdigest()}."  # a file system takes names of 255 bytes


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """Write the file ``path`` in the block: a reader sees the old file or the new one, never half of one.

    An exception in the block leaves the old file.
    """
    part = temporary_beside(path)
    try:
        with naming(path), part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    flush_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an ``OSError`` inside the file's name, which a failed write or flush lacks."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write bytes to ``path``, whole or not at all; see :func:`writing_whole`."""
    with writing_whole(path) as file:
        file.write(data)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power failure."""
    if os.name == "nt":  # a folder cannot be opened there, and a rename is written through
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(handle)
    finally:
        os.close(handle)


def flush_files(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb+") as file:
                os.fsync(file.fileno())
        flush_folder(Path(parent))


def name_folder(part: Path, path: Path) -> None:
    """Give a finished folder its name. A folder that has the name is replaced, and deleted afterwards."""
    old = temporary_beside(path) if path.exists() else None
    if old is not None:
        path.rename(old)
    part.rename(path)
    flush_folder(path.parent)
    if old is not None:
        shutil.rmtree(old)


def first_stranger(folder: Path, known: Collection[str]) -> Path | None:
    """The first file, link or empty folder below ``folder`` whose path within it is not ``known``; temporary files are passed over."""
    for path in sorted(folder.rglob("*")):
        inner = path.is_dir() and not path.is_symlink() and any(path.iterdir())
        if not inner and path.relative_to(folder).as_posix() not in known and not path.name.endswith(OURS):
            return path
    return None


def copy_folder(source: Path, path: Path, ignore: Callable[[str, list[str]], list[str]] | None = None) -> None:
    """Copy a folder to ``path``, which does not exist, whole or not at all.

    Args:
        ignore: names to leave out, as for :func:`shutil.copytree`.
    """
    part = temporary_beside(path)
    try:
        shutil.copytree(source, part, ignore=ignore, copy_function=shutil.copyfile)  # not its modes: the source may be read-only
        flush_files(part)
        name_folder(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder, if it is there: its name goes first, so that no half of it is ever found under that name."""
    if not path.exists():
        return
    gone = temporary_beside(path)
    path.rename(gone)
    flush_folder(path.parent)
    shutil.rmtree(gone)


def is_temporary(name: str) -> bool:
    """Whether a name is one that :func:`temporary_beside` makes."""
    return _TEMPORARY.fullmatch(name) is not None


def clear_leftovers(path: Path) -> None:
    """Delete the temporary files and folders of ``path``, and those in it, that a killed process left. Only its one writer may do this."""
    beside = [each for each in path.parent.iterdir() if each.name.startswith(_stem(path))] if path.parent.is_dir() else []
    for left in [*beside, *path.rglob(f".*{OURS}")]:
        if not is_temporary(left.name):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
