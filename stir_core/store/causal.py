"""A run's causal study on disk: the answers that give its states, the continuations as they arrive, and the report.

causal.part/   while it is being made
causal/        when it has ended, by itself or because its budget was used up
    causal.json  problems.jsonl  traces.jsonl  rolls.jsonl  report.json  report.md  advantages.jsonl
causal-codes/  the study ``codes``, likewise
causal-own/    the study ``own``; it has neither traces nor advantages
"""

from typing import ClassVar

from stir_core.findings import CausalReport, CausalSpec
from stir_core.requests import CausalStudyName
from stir_core.store.jsonl import write_records
from stir_core.store.runs import Run
from stir_core.store.studies import ContinuationsFolder


class CausalFolder(ContinuationsFolder[CausalSpec, CausalReport]):
    """Where one of a run's causal studies is kept."""

    results = ("traces.jsonl", "rolls.jsonl", "advantages.jsonl")
    may_change: ClassVar[set[str]] = {"command", "environment", "states", "rolls", "model", "budget_tokens", "rows", "strength", "layers"}
    """More states, continuations and layers add to the study; the strength is compared as part of ``gate``."""

    def __init__(self, run: Run, study: CausalStudyName = "gate"):
        place = "causal" if study == "gate" else f"causal-{study}"
        super().__init__(run, place, "causal.json", (CausalSpec, CausalReport), "make it with `stir causal`, or again with --fresh")

    def write_report(self, report: CausalReport, text: str, *, complete: bool) -> None:
        """Write the report, its text and the advantages; a complete study gets its final name."""
        if report.spec.study != "own":
            write_records(self.path / "advantages.jsonl", report.actions)
        super().write_report(report, text, complete=complete)
