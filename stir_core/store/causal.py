"""A run's causal study on disk: answers that give the states, continuations appended as they end, and the report.

causal.part/  while it is being made      causal/  when it has ended, by itself or by its budget
    causal.json  problems.jsonl  traces.jsonl  rolls.jsonl  report.json  report.md  advantages.jsonl
"""

import shutil
from pathlib import Path

from stir_core.errors import StoreError
from stir_core.findings import CausalReport, CausalSpec, Roll
from stir_core.records import Problem, Trace
from stir_core.store.jsonl import append_records, read_record, read_records, write_record, write_records
from stir_core.store.runs import Run

REMEDY = "make it with `stir causal`, or again with --fresh"

MAY_CHANGE = {"command", "environment", "states", "rolls", "model", "budget_tokens", "rows", "strength"}
"""Parts of a spec that a study which is taken up again may change: more states or continuations add to what is there; ``gate`` has
the strength."""


class CausalFolder:
    """Where a run's causal study is kept."""

    def __init__(self, run: Run):
        self.part = run.work / "causal.part"
        self.final = run.work / "causal"
        self._shipped = run.path / "causal"

    @property
    def path(self) -> Path:
        """The folder as it is now."""
        written = self.part if self.part.is_dir() else self.final
        return written if written.is_dir() else self._shipped

    def begin(self, spec: CausalSpec, problems: list[Problem]) -> None:
        """Make the folder, or take it up again.

        Raises:
            StoreError: what is there was made with other settings.
        """
        if spec.fresh:
            for folder in (self.part, self.final):
                shutil.rmtree(folder, ignore_errors=True)
        if not spec.fresh and (self.path / "causal.json").is_file():
            known, ours = self.spec().model_dump(exclude=MAY_CHANGE), spec.model_dump(exclude=MAY_CHANGE)
            for field, value in ours.items():
                if known[field] != value:
                    raise StoreError(f"{self.path} was made with {field} = {known[field]!r}, not {value!r}: add --fresh to start over")
            if self.path == self.final:
                self.final.rename(self.part)
            elif self.path != self.part:  # it came with the run, which is not written to
                shutil.copytree(self.path, self.part)
        self.part.mkdir(parents=True, exist_ok=True)
        write_record(self.part / "causal.json", spec)
        write_records(self.part / "problems.jsonl", problems)

    def spec(self) -> CausalSpec:
        """What is measured."""
        return read_record(self.path / "causal.json", CausalSpec, REMEDY)

    def traces(self) -> list[Trace]:
        """Answers whose steps give the states, as far as they are there."""
        file = self.path / "traces.jsonl"
        return read_records(file, Trace, torn="drop") if file.is_file() else []

    def add_trace(self, trace: Trace) -> None:
        """Keep one answer."""
        append_records(self.part / "traces.jsonl", [trace])

    def rolls(self) -> list[Roll]:
        """Continuations so far."""
        file = self.path / "rolls.jsonl"
        return read_records(file, Roll, torn="drop") if file.is_file() else []

    def add_roll(self, roll: Roll) -> None:
        """Keep one continuation."""
        append_records(self.part / "rolls.jsonl", [roll])

    def write_report(self, report: CausalReport, text: str, *, ended: bool) -> None:
        """Write the report; a study that has ended gets its final name."""
        write_record(self.path / "report.json", report)
        (self.path / "report.md").write_text(text, encoding="utf-8")
        write_records(self.path / "advantages.jsonl", report.actions)
        if ended and self.part.is_dir():
            shutil.rmtree(self.final, ignore_errors=True)
            self.part.rename(self.final)

    def report(self) -> CausalReport | None:
        """The last report; ``None`` before the first.

        Raises:
            StoreError: it is malformed.
        """
        file = self.path / "report.json"
        return read_record(file, CausalReport, REMEDY) if file.is_file() else None
