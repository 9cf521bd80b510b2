"""The progress of a process, as lines that another process can read while it runs: ``stir run ... --progress FILE``.

Each line is appended whole and flushed at once. A killed process writes no final line: readers must then ask the process table.
"""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

from stir_core.errors import StoreError
from stir_core.records import Progress, Record
from stir_core.store.jsonl import cut_torn_line, read_appended

State = Literal["starting", "running", "finished", "stopped", "failed"]
EVERY = 0.2
"""Minimum time in seconds between two lines of one stage; its first and last lines are always written."""


_BEGIN = b'{"at":'
"""Beginning of every line."""


class ProgressLine(Record):
    """The progress of a process at one moment."""

    at: float
    """Seconds since the epoch."""
    state: State
    stage: str | None = None
    """``None`` before the first stage reports, e.g. while the model loads."""
    done: int = 0
    total: int = 0
    unit: str = ""
    tokens: int = 0
    """Tokens run by this process in this stage."""
    seconds: float = 0.0
    """Since this stage's first line."""
    error: str | None = None
    """Why it failed, in one line."""

    @property
    def last(self) -> bool:
        """True when no line follows this one."""
        return self.state in ("finished", "stopped", "failed")


class ProgressFile:
    """Writes the lines. In a ``with`` block an exception is written as the last line, and raised again.

    Raises:
        StoreError: the file cannot be written, or holds other lines.
    """

    def __init__(self, path: Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and not all(line.startswith(_BEGIN) for line in path.read_bytes().splitlines()):
                raise StoreError(f"{path} is not a progress file: choose another --progress, nothing there is overwritten")
            cut_torn_line(path)
            self._file: TextIO = path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise StoreError(f"progress cannot be written to {path} ({error.strerror}): name a file in a folder of yours") from None
        self._began: dict[str, float] = {}
        self._line = ProgressLine(at=time.time(), state="starting")
        self._written = 0.0
        self._write(self._line)

    def report(self, progress: Progress) -> None:
        """Write a stage's progress. Within :data:`EVERY` seconds of the last line only a stage's first and last lines are written."""
        now = time.time()
        first = progress.stage not in self._began
        seconds = now - self._began.setdefault(progress.stage, now)
        self._line = ProgressLine(at=now, state="running", seconds=round(seconds, 3), **_shown(progress))
        if first or progress.done >= progress.total or now - self._written >= EVERY:
            self._write(self._line)

    def __enter__(self) -> "ProgressFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        state: State = "finished"
        if kind is not None:
            state = "stopped" if issubclass(kind, KeyboardInterrupt) else "failed"
        reason = " ".join(f"{error}".split()) or type(error).__name__ if state == "failed" else None
        self._write(self._line.replaced(at=time.time(), state=state, error=reason))
        self._file.close()

    def _write(self, line: ProgressLine) -> None:
        self._file.write(line.model_dump_json() + "\n")
        self._file.flush()
        self._written = line.at


def _shown(progress: Progress) -> dict[str, Any]:
    return {name: value for name, value in progress._asdict().items() if name in ProgressLine.model_fields}


def read_progress(path: Path, since: float = 0.0) -> list[ProgressLine]:
    """The lines written at or after ``since`` (seconds since the epoch); an empty list when there is no file yet.

    Raises:
        StoreError: a line is not a progress line.
    """
    return [line for line in read_appended(path, ProgressLine) if line.at >= since]
