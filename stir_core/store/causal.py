"""A run's causal study on disk: the answers that give its states, the continuations as they arrive, and the report.

causal.part/   while it is being made
causal/        when it has ended, by itself or because its budget was used up
    causal.json  problems.jsonl  traces.jsonl  rolls.jsonl  report.json  report.md  advantages.jsonl
causal-own/    the study ``own``, likewise; it has neither traces nor advantages
"""

from typing import Literal

from stir_core.config import digest_of
from stir_core.errors import StoreError
from stir_core.findings import CausalReport, CausalSpec, Roll
from stir_core.records import Trace
from stir_core.store.jsonl import append_records, read_appended, write_records
from stir_core.store.runs import Run
from stir_core.store.studies import StudyFolder

MAY_CHANGE = {"command", "environment", "states", "rolls", "model", "budget_tokens", "rows", "strength"}
"""Fields of the spec that may change when a study is continued: more states and more continuations add to the study; the strength is
compared as part of ``gate``."""


class CausalFolder(StudyFolder[CausalSpec, CausalReport]):
    """Where one of a run's two causal studies is kept."""

    results = ("traces.jsonl", "rolls.jsonl", "advantages.jsonl")

    def __init__(self, run: Run, study: Literal["gate", "own"] = "gate"):
        place = "causal" if study == "gate" else f"causal-{study}"
        super().__init__(run, place, "causal.json", (CausalSpec, CausalReport), "make it with `stir causal`, or again with --fresh")

    def check(self, known: CausalSpec, spec: CausalSpec) -> None:
        """Refuse other settings than those in :data:`MAY_CHANGE`.

        Raises:
            StoreError: naming the setting and both values.
        """
        theirs = known.model_dump(mode="json", exclude=MAY_CHANGE)
        for field, value in spec.model_dump(mode="json", exclude=MAY_CHANGE).items():
            if digest_of(theirs[field]) != digest_of(value):
                raise StoreError(f"{self.path} was made with {field} = {theirs[field]!r}, not {value!r}: add --fresh to start over")

    def traces(self) -> list[Trace]:
        """The answers so far whose control points are the states."""
        return read_appended(self.file("traces.jsonl"), Trace)

    def add_trace(self, trace: Trace) -> None:
        """Append one answer."""
        append_records(self.part / "traces.jsonl", [trace])

    def rolls(self) -> list[Roll]:
        """The continuations so far."""
        return read_appended(self.file("rolls.jsonl"), Roll)

    def add_roll(self, roll: Roll) -> None:
        """Append one continuation."""
        append_records(self.part / "rolls.jsonl", [roll])

    def write_report(self, report: CausalReport, text: str, *, complete: bool) -> None:
        """Write the report, its text and the advantages; a complete study gets its final name."""
        if report.spec.study == "gate":
            write_records(self.path / "advantages.jsonl", report.actions)
        super().write_report(report, text, complete=complete)
