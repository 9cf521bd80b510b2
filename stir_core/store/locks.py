"""One writer for a folder: a lock of the operating system, with a record beside it that says who holds it and since when.

    with one_writer(run.path / "run", of=run.path):     # run.lock is locked, run.writer.json says by whom
        ...

The system releases a lock when its holder dies, so a dead process's lock is simply taken; the record is only read for the message. Readers
take no lock.
"""

import getpass
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from stir_core.errors import StirError, StoreError
from stir_core.records import Record
from stir_core.store.files import clear_leftovers, temporary_beside
from stir_core.store.jsonl import read_record, write_record

PATIENCE = 20.0
"""Seconds that a short write waits for another writer."""


class Writer(Record):
    """The process that writes into a folder."""

    user: str
    host: str
    pid: int
    started: float
    """Start of the process in the process table, seconds since the epoch: tells it from a later process with the same number."""
    command: str
    since: str
    """When it took the lock, in UTC."""

    def __str__(self) -> str:
        return f"{self.user} on {self.host}, process {self.pid}, since {self.since}: {self.command}"


@contextmanager
def one_writer(
    place: Path, *, of: Path | None = None, owns: Sequence[Path] = (), patience: float = 0.0, kind: type[StirError] = StoreError
) -> Iterator[None]:
    """Hold the lock of ``place`` in the block: the file ``<place>.lock``, with ``<place>.writer.json`` beside it. Folders are made.

    Args:
        of: the folder that is written to, for the message; ``None``: ``place``.
        owns: files and folders that only the holder writes: leftovers of a killed writer there are deleted.
        patience: seconds to wait for another writer.
        kind: class of the refusal.

    Raises:
        StirError: another process or thread holds the lock, and is named; or the folder cannot be written.
    """
    of = of or place
    record = place.with_name(f"{place.name}.writer.json")
    lock = FileLock(place.with_name(f"{place.name}.lock"), timeout=patience)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise kind(f"{of} is being written to by {_holder(record)}; wait for it, or end that process") from None
    except OSError as error:
        raise kind(f"{of} cannot be written ({error.strerror}): allow writing to it, choose another place, or free the disk") from None
    try:
        for path in (record, *owns):
            clear_leftovers(path)
        write_record(record, _this_process())
        yield
    finally:
        record.unlink(missing_ok=True)
        lock.release()


@contextmanager
def folder_beside(folder: Path, kind: type[StirError]) -> Iterator[Path]:
    """A new folder beside ``folder``, for its one writer, deleted after the block; what a killed writer left there is deleted before.

    Raises:
        StirError: as :func:`one_writer`, which waits for :data:`PATIENCE` here.
    """
    with one_writer(folder, owns=(folder,), patience=PATIENCE, kind=kind):
        work = temporary_beside(folder)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _holder(record: Path) -> str:
    try:
        return str(read_record(record, Writer, ""))
    except StoreError:  # it has only just taken the lock, or is about to release it
        return "another process"


def _this_process() -> Writer:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no such user on this machine, as in some containers
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return Writer(
        user=user,
        host=socket.gethostname(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500],
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    )
