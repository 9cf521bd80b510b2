"""Rollouts of a run while they are sampled, read beside the process that appends them: no lock, nothing written, each line read once."""

import socket
from collections import defaultdict, deque
from pathlib import Path
from typing import NamedTuple

import psutil
from pydantic import ValidationError

from stir_core.errors import StoreError
from stir_core.records import Problem, Rollout
from stir_core.store.jsonl import read_appended, read_record
from stir_core.store.locks import Writer
from stir_core.store.runs import Run

LAST = 8
"""Rollouts that are kept to be looked at."""


class HarvestSoFar(NamedTuple):
    """How far sampling has come."""

    done: int
    total: int
    right: dict[str, list[float]]
    """By problem, 1 for each right rollout and 0 for each other one."""
    cut: int
    """Rollouts that ended at the token budget."""
    unstated: int
    """Rollouts that state no final answer, most of them cut off."""
    tokens: int
    rate: float | None
    """Tokens per second since the first look; ``None`` while none came."""
    last: tuple[Rollout, ...]
    """The latest first."""
    finished: bool


class HarvestWatch:
    """Reads what a run's rollouts have come to; each :meth:`look` reads what was appended since the one before."""

    def __init__(self, run: Run):
        self._run = run
        self._begin()

    def _begin(self) -> None:
        self._read, self._cut, self._unstated, self._tokens, self._total = 0, 0, 0, 0, 0
        self._right: dict[str, list[float]] = defaultdict(list)
        self._last: deque[Rollout] = deque(maxlen=LAST)
        self._first: tuple[float, int] | None = None

    def look(self, now: float) -> HarvestSoFar | None:
        """What there is; ``None`` before the first problem is written.

        Args:
            now: seconds, of any clock that the other looks use too; the rate of tokens is measured by it.

        Raises:
            StoreError: a whole line is not a rollout.
        """
        finished = self._run.finished("rollouts")
        folder = self._run.folder("rollouts") if finished else self._run.part("rollouts")
        if not (folder / "problems.jsonl").is_file():
            return None
        file = folder / "rollouts.jsonl"
        size = file.stat().st_size if file.is_file() else 0
        if size < self._read:  # an attempt with other settings began anew
            self._begin()
        if size > self._read:
            with file.open("rb") as lines:
                lines.seek(self._read)
                data = lines.read(size - self._read)
            whole = data[: data.rfind(b"\n") + 1]
            for line in whole.splitlines():
                self._count(line, file)
            self._read += len(whole)
        if not self._total:
            self._total = len(read_appended(folder / "problems.jsonl", Problem)) * self._run.config.rollouts.k
        if self._first is None:
            self._first = now, self._tokens
        since, before = self._first
        rate = (self._tokens - before) / (now - since) if now > since and self._tokens > before else None
        done = sum(map(len, self._right.values()))
        shown = tuple(reversed(self._last))
        return HarvestSoFar(done, self._total, dict(self._right), self._cut, self._unstated, self._tokens, rate, shown, finished)

    def _count(self, line: bytes, file: Path) -> None:
        try:
            rollout = Rollout.model_validate_json(line)
        except ValidationError as error:
            raise StoreError(f"{file} holds a line that is no rollout ({error.errors()[0]['msg']}): make the stage again") from None
        self._right[rollout.problem_id].append(float(rollout.verdict.correct))
        self._cut += rollout.finish == "length"
        self._unstated += not rollout.verdict.finished
        self._tokens += rollout.n_tokens
        self._last.append(rollout)


def writer_of(run: Run) -> Writer | None:
    """The process that writes the run; ``None``: there is none, or the one on record has died."""
    try:
        writer = read_record(run.path / "run.writer.json", Writer, "")
    except StoreError:  # nobody writes
        return None
    try:
        alive = abs(psutil.Process(writer.pid).create_time() - writer.started) < 1.0
    except psutil.AccessDenied:  # another user's: it is there
        return writer
    except psutil.NoSuchProcess:
        alive = False
    return writer if alive or writer.host != socket.gethostname() else None
