"""How far a process has come, as lines that another process can read while it works: ``stir run ... --progress FILE``.

Appended whole and flushed at once; a process that is killed leaves no last word: readers must then ask the process table.
"""

import time
from pathlib import Path
from types import TracebackType
from typing import Literal, TextIO

from stir_core.errors import StoreError
from stir_core.records import Progress, Record
from stir_core.store.jsonl import cut_torn_line, read_records

State = Literal["starting", "running", "finished", "stopped", "failed"]
EVERY = 0.2
"""Seconds between two lines of one stage; its first and its last one are always written."""


class ProgressLine(Record):
    """Where a process stood at one moment."""

    at: float
    """Seconds since the epoch."""
    state: State
    stage: str | None = None
    """``None`` before the first stage has anything to count, e.g. while the model loads."""
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
        """True when the process has nothing more to say."""
        return self.state in ("finished", "stopped", "failed")


class ProgressFile:
    """Writes the lines. Inside ``with`` an exception becomes the last line and goes on its way.

    Raises:
        StoreError: the file cannot be written.
    """

    def __init__(self, path: Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_torn_line(path)
            self._file: TextIO = path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise StoreError(f"progress cannot be written to {path} ({error.strerror}): name a file in a folder of yours") from None
        self._began: dict[str, float] = {}
        self._line = ProgressLine(at=time.time(), state="starting")
        self._written = 0.0
        self._write(self._line)

    def report(self, progress: Progress) -> None:
        """Say how far a stage is; too soon after the line before, only its beginning and its end are written."""
        now = time.time()
        first = progress.stage not in self._began
        seconds = now - self._began.setdefault(progress.stage, now)
        self._line = ProgressLine(at=now, state="running", seconds=round(seconds, 3), **progress._asdict())
        if first or progress.done >= progress.total or now - self._written >= EVERY:
            self._write(self._line)

    def __enter__(self) -> "ProgressFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        state: State = "finished" if kind is None else "stopped" if issubclass(kind, KeyboardInterrupt) else "failed"
        said = None if error is None or state == "stopped" else " ".join(f"{error}".split()) or type(error).__name__
        self._write(self._line.replaced(at=time.time(), state=state, error=said))
        self._file.close()

    def _write(self, line: ProgressLine) -> None:
        self._file.write(line.model_dump_json() + "\n")
        self._file.flush()
        self._written = line.at


def read_progress(path: Path, since: float = 0.0) -> list[ProgressLine]:
    """The lines written at or after ``since`` (seconds since the epoch); none where there is no file yet.

    Raises:
        StoreError: a line is not one of ours.
    """
    if not path.is_file():
        return []
    return [line for line in read_records(path, ProgressLine, torn="drop") if line.at >= since]
