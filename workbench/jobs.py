"""Runs as subprocesses: started, listed, cancelled and resumed.

A job is a ``stir`` command in a process session of its own, and files in ``jobs/`` below the folder of runs: ``<id>.json`` (the command),
``<id>.progress.jsonl`` (its progress), ``<id>.log`` (its output). A job's state follows from these files and the process table alone, so a
restarted server finds its jobs; only child processes to be reaped are kept in memory. Names that lead out of the folder of runs are
refused, and so is a second job while one is running.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from stir_core.config import digest_of
from stir_core.errors import FAULTS, StoreError, escaped, line_of
from stir_core.records import Record
from stir_core.store.files import write_whole
from stir_core.store.jsonl import read_record, write_record
from stir_core.store.locks import PATIENCE, one_writer
from stir_core.store.progress import ProgressLine, read_progress
from stir_core.store.runs import ALIASES, EMBEDDED_RUNS
from stir_core.store.saved import SAVED

RESERVED = {*EMBEDDED_RUNS, *ALIASES}
"""Names by which commands and links know the embedded runs."""
NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
"""Names of runs and jobs: no separators, and no start of an option or a hidden file."""
_ID = re.compile(r"\w[\w.-]{0,139}", re.ASCII)
FOLDER = "jobs"
PROGRAM = (sys.executable, "-m", "stir_core")
_ROOT = str(Path(__file__).resolve().parents[1])
_TOLD = re.compile(r"(STIR|OMP|MKL)_\w+|HF_HUB_OFFLINE|CUDA_VISIBLE_DEVICES|PYTHONPATH")
"""Environment variables that the log records; no others, not even by name."""
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH")
CHILDREN: "dict[int, subprocess.Popen[bytes]]" = {}
"""Processes started by this server, by process number; those of an earlier server are known from their files alone."""

JobState = Literal["running", "stopping", "finished", "stopped", "failed", "lost"]


class RunJob(Record):
    """A started command, as ``<id>.json`` records it."""

    id: str
    run: str
    """Name of the run, a folder below the folder of runs."""
    command: tuple[str, ...]
    shown: str
    """The same command as typed in a shell."""
    host: str
    pid: int
    created: float
    """Start of the process in the process table, seconds since the epoch: tells it from a later process with the same number."""
    started: float
    """Start of this attempt, seconds since the epoch."""
    attempts: int = 1
    cancelled: float | None = None
    """Time at which this attempt was asked to stop."""
    progress: str
    log: str


class Status(NamedTuple):
    """A job, its state, and the progress of this attempt."""

    job: RunJob
    state: JobState
    lines: list[ProgressLine]

    @property
    def running(self) -> bool:
        """True while its process exists."""
        return self.state in ("running", "stopping")

    @property
    def last(self) -> ProgressLine | None:
        """The last progress line, if any."""
        return self.lines[-1] if self.lines else None


class JobStore:
    """The jobs of one folder of runs. Two stores of one folder see the same jobs."""

    def __init__(self, runs: Path, *, program: Sequence[str] = PROGRAM, limit: int = 1):
        self._runs, self._program, self._limit = runs.resolve(), tuple(program), limit
        self._folder = self._runs / FOLDER

    def run_folder(self, name: str) -> Path:
        """Folder of the run of that name.

        Raises:
            StoreError: the name is not usable, or leads out of the folder of runs.
        """
        if name in RESERVED:
            raise StoreError(f"run name {name!r} is the name of an embedded run, which a link could then mean: take another name")
        if not NAME.fullmatch(name) or name in (FOLDER, SAVED):
            raise StoreError(
                f"run name {name!r} is not usable: take letters, digits, dots, dashes, underscores, and neither {FOLDER} nor {SAVED}"
            )
        folder = self._runs / name
        if folder.resolve() != folder:
            raise StoreError(f"run name {name!r} leads out of {self._runs}: take another name")
        return folder

    def config_file(self, name: str, toml: str) -> Path:
        """File that :meth:`start` writes a config to; its name holds the digest, so that a later start does not overwrite it."""
        return self._folder / f"{self.run_folder(name).name}-{digest_of(toml)[:8]}.toml"

    def start(self, name: str, arguments: Sequence[str], *, toml: str | None = None) -> RunJob:
        """Start ``stir ARGUMENTS --progress FILE`` for the run of that name.

        Args:
            toml: written to :meth:`config_file` first.

        Raises:
            StoreError: the name is not usable, another job is running, or the process cannot be started.
        """
        self.run_folder(name)
        with self._starting():
            self._check_room()
            self._folder.mkdir(parents=True, exist_ok=True)
            if toml is not None:
                write_whole(self.config_file(name, toml), toml.encode("utf-8"))
            id_ = self._free_id(name)
            progress, log = (self._folder / f"{id_}{end}" for end in (".progress.jsonl", ".log"))
            words = (*arguments, "--progress", str(progress))
            job = RunJob(
                id=id_,
                run=name,
                command=(*self._program, *words),
                shown=shlex.join(["stir", *words]),
                host=socket.gethostname(),
                pid=0,
                created=0.0,
                started=0.0,
                attempts=0,
                progress=progress.name,
                log=log.name,
            )
            return self._launch(job)

    def resume(self, id_: str) -> RunJob:
        """Run the same command again; finished work is kept.

        Raises:
            StoreError: no such job, or a job is running.
        """
        with self._starting():
            job = self._read(id_)
            self._check_room()
            return self._launch(job)

    def cancel(self, id_: str, *, grace: float = 20.0) -> threading.Thread:
        """Ask a running job to stop (SIGTERM), and after ``grace`` seconds end its whole process group.

        Only the command itself is asked: it ends its helpers once its results are saved, and a helper that
        ended earlier would look like a failure.

        Returns:
            The thread that waits and ends the group.

        Raises:
            StoreError: no such job, or it is not running here.
        """
        job = self._read(id_)
        process = _process(job)
        if process is None:
            raise StoreError(f"job {id_} is not running on this machine: there is nothing to cancel")
        self._write(job.replaced(cancelled=time.time()))
        process.terminate()
        thread = threading.Thread(target=_end, args=(process, job, grace), daemon=True, name=f"stir-cancel-{id_}")
        thread.start()
        return thread

    def status(self, id_: str) -> Status:
        """The state of one job.

        Raises:
            StoreError: no such job, or its files are malformed.
        """
        return self._status(self._read(id_))

    def all(self) -> tuple[list[Status], list[str]]:
        """Every job, the latest first, and one line for every unreadable file."""
        jobs: list[Status] = []
        broken: list[str] = []
        for file in sorted(self._folder.glob("*.json")):
            try:
                jobs.append(self.status(file.stem))
            except FAULTS as error:
                broken.append(line_of(error))
        return sorted(jobs, key=lambda each: each.job.started, reverse=True), broken

    def running(self) -> list[Status]:
        """Jobs whose process exists."""
        return [each for each in self.all()[0] if each.running]

    def tail(self, job: RunJob, lines: int = 40) -> str:
        """The last lines of the job's log."""
        file = self._folder / job.log
        if not file.is_file():
            return ""
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 64_000))
            text = log.read().decode("utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _starting(self) -> AbstractContextManager[None]:
        """One start at a time: each sees the jobs of those before it, whichever server made them."""
        return one_writer(self._folder, owns=(self._folder,), patience=PATIENCE)

    def _check_room(self) -> None:
        running = self.running()
        if len(running) >= self._limit:
            busy = running[0].job.run
            raise StoreError(f"run {busy} is being made already, and this machine makes one at a time: wait for it or cancel it")

    def _free_id(self, name: str) -> str:
        stamp = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        tries = [stamp, *(f"{stamp}.{i}" for i in range(2, 1000))]
        return next(each for each in tries if not (self._folder / f"{each}.json").exists())

    def _launch(self, job: RunJob) -> RunJob:
        environment = os.environ | {
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")])),
        }
        started = time.time()
        with (self._folder / job.log).open("a", encoding="utf-8") as log:
            told = {key: value for key, value in sorted(environment.items()) if _TOLD.fullmatch(key) and not _SECRET.search(key)}
            facts = shlex.join(f"{key}={value}" for key, value in told.items())
            log.write(f"# {time.strftime('%Y-%m-%d %H:%M:%S')} {escaped(job.shown)}\n# {escaped(facts)}\n")
            log.flush()
            try:
                child = subprocess.Popen(
                    job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
                )
            except OSError as error:
                raise StoreError(f"{job.command[0]} cannot be started ({error.strerror}): see {self._folder / job.log}") from None
        CHILDREN[child.pid] = child
        try:
            created = psutil.Process(child.pid).create_time()
        except psutil.NoSuchProcess:  # it has ended already; its last progress line gives its state
            created = started
        update = {"pid": child.pid, "created": created, "started": started, "attempts": job.attempts + 1, "cancelled": None}
        return self._write(job.replaced(**update))

    def _status(self, job: RunJob) -> Status:
        alive = _process(job) is not None  # checked before reading, so that the last line of a process that ends in between is not missed
        lines = read_progress(self._folder / job.progress, since=job.started)
        last = lines[-1].state if lines else "starting"
        if last in ("finished", "stopped", "failed"):
            return Status(job, last, lines)
        if alive or (job.host != socket.gethostname() and not job.cancelled):
            return Status(job, "stopping" if job.cancelled else "running", lines)
        return Status(job, "stopped" if job.cancelled else "lost", lines)

    def _read(self, id_: str) -> RunJob:
        if not _ID.fullmatch(id_):
            raise StoreError(f"job {id_!r} is not the name of a job: choose one on the Harvest page")
        job = read_record(self._folder / f"{id_}.json", RunJob, "start the run again")
        if (job.id, job.progress, job.log) != (id_, f"{id_}.progress.jsonl", f"{id_}.log"):
            raise StoreError(f"{self._folder / id_}.json is not the file of its job: remove it")
        return job

    def _write(self, job: RunJob) -> RunJob:
        write_record(self._folder / f"{job.id}.json", job)
        return job


def _process(job: RunJob) -> psutil.Process | None:
    """The job's process; ``None`` when it has ended, or its number belongs to another process."""
    child = CHILDREN.get(job.pid)
    if child is not None and child.poll() is not None:
        del CHILDREN[job.pid]
        return None
    if job.host != socket.gethostname() or job.pid <= 0:
        return None
    try:
        process = psutil.Process(job.pid)
        same = abs(process.create_time() - job.created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # a process that we cannot inspect is not ours
        return None
    return process if same else None


def _end(process: psutil.Process, job: RunJob, grace: float) -> None:
    """Wait for the process to stop; after ``grace`` seconds kill its group."""
    end = time.monotonic() + grace
    while time.monotonic() < end:
        if _process(job) is None:
            return
        time.sleep(0.05)
    if _process(job) is None:
        return
    try:
        if hasattr(os, "killpg"):
            os.killpg(job.pid, signal.SIGKILL)  # the job leads its session, so its group has the same number
        else:
            for each in (*process.children(recursive=True), process):
                each.kill()
    except (ProcessLookupError, psutil.NoSuchProcess):  # it ended by itself in the meantime
        return
