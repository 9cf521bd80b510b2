"""Critical tokens of answers on disk: continuations appended as they arrive, with the summary beside them."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from stir_core.config import digest_of
from stir_core.findings import CriticalRoll, CriticalTrace
from stir_core.records import Trace
from stir_core.store.files import write_whole
from stir_core.store.jsonl import append_records, read_appended, read_record, write_records
from stir_core.store.locks import one_writer
from stir_core.store.runs import Run
from stir_core.store.seals import DIGESTS, as_sealed, write_seal

Of = Literal["vanilla", "steered"]
SUFFIXES = ("json", "steps.json")
"""Of the summaries: of tokens, and of steps."""


class CriticalFile:
    """Where the critical tokens of one held-out answer are kept: ``critical/<digest of the answer>``."""

    def __init__(self, run: Run, of: Of, trace: Trace):
        self.of: Of = of
        self._run = run
        self._name = digest_of([of, trace.id, list(trace.prompt_ids), list(trace.token_ids), run.config.seed])

    def writer(self) -> AbstractContextManager[None]:
        """Hold the lock of this answer's files; see :func:`~stir_core.store.locks.one_writer`."""
        place = self._run.work / "critical" / self._name
        return one_writer(place, owns=tuple(self._written(suffix) for suffix in ("rolls.jsonl", *SUFFIXES)))

    def rolls(self) -> list[CriticalRoll]:
        """The continuations so far."""
        return read_appended(self._checked("rolls.jsonl"), CriticalRoll)

    def append(self, roll: CriticalRoll) -> None:
        """Append one continuation."""
        self._written(DIGESTS).unlink(missing_ok=True)  # sealed again with the summary
        file = self._written("rolls.jsonl")
        if not file.is_file():  # what came with the run is never written to: begin with a copy of it
            write_records(file, self.rolls())
        append_records(file, [roll])

    def write(self, summary: CriticalTrace) -> Path:
        """Write the summary, of tokens or of steps."""
        file = self._written(SUFFIXES[not summary.every])
        for suffix in SUFFIXES:  # what came with the run stays readable beside what is made of it
            if (other := self._written(suffix)) != file and not other.is_file() and (came := self._checked(suffix)).is_file():
                write_whole(other, came.read_bytes())
        self._written(DIGESTS).unlink(missing_ok=True)
        write_whole(file, (summary.model_dump_json() + "\n").encode("utf-8"))
        sealed = [self._written(suffix) for suffix in (*SUFFIXES, "rolls.jsonl")]
        write_seal(self._written(DIGESTS), [each for each in sealed if each.is_file()])
        return file

    def read(self, at: Literal["tokens", "steps"] = "tokens") -> CriticalTrace | None:
        """The summary of tokens or of steps; ``None`` when there is none.

        Raises:
            StoreError: it is malformed.
        """
        file = self._checked(SUFFIXES[at == "steps"])
        return read_record(file, CriticalTrace, "remove it and measure again with `stir critical`") if file.is_file() else None

    def _checked(self, suffix: str) -> Path:
        file = self._run.derived("critical", f"{self._name}.{suffix}")
        return as_sealed(file.with_name(f"{self._name}.{DIGESTS}"), file, f"copy it again, or remove {self._name}.* and measure again")

    def _written(self, suffix: str) -> Path:
        folder = self._run.work / "critical"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self._name}.{suffix}"
