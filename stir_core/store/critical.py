"""Critical tokens of answers on disk: continuations appended as they end, the summary beside them."""

from pathlib import Path
from typing import Literal

from stir_core.config import digest_of
from stir_core.findings import CriticalRoll, CriticalTrace
from stir_core.records import Trace
from stir_core.store.jsonl import append_records, read_record, read_records
from stir_core.store.runs import Run

Of = Literal["vanilla", "steered"]


class CriticalFile:
    """Where the critical tokens of one held-out answer are kept: ``critical/<digest of the answer>``."""

    def __init__(self, run: Run, of: Of, trace: Trace):
        self.of: Of = of
        name = digest_of([of, trace.id, list(trace.prompt_ids), list(trace.token_ids), run.config.seed])
        self._run, self._name = run, name

    def rolls(self) -> list[CriticalRoll]:
        """Continuations so far."""
        file = self._place("rolls.jsonl")
        return read_records(file, CriticalRoll, torn="drop") if file.is_file() else []

    def append(self, roll: CriticalRoll) -> None:
        """Keep one continuation."""
        file = self._run.work / "critical" / f"{self._name}.rolls.jsonl"
        if not file.is_file():  # what came with the run is not written to
            file.parent.mkdir(parents=True, exist_ok=True)
            append_records(file, self.rolls())
        append_records(file, [roll])

    def write(self, found: CriticalTrace) -> Path:
        """Write the summary."""
        file = self._run.work / "critical" / f"{self._name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(found.model_dump_json() + "\n", encoding="utf-8")
        return file

    def read(self) -> CriticalTrace | None:
        """The summary; ``None`` where none was made.

        Raises:
            StoreError: it is malformed.
        """
        file = self._place("json")
        return read_record(file, CriticalTrace, "remove it and measure again with `stir critical`") if file.is_file() else None

    def _place(self, suffix: str) -> Path:
        return self._run.found("critical", f"{self._name}.{suffix}")
