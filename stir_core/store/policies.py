"""A run's learned gates on disk: the answers that decisions were drawn in, what came of them, the weights, and the report.

policy.part/   while it is being made
policy/        when it has ended; only then the gates are used
    policy.json  problems.jsonl  traces.jsonl  decisions.jsonl  rolls.jsonl  view.safetensors  weights.jsonl  report.json  report.md
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from stir_core.findings import LoggedDecision, PolicyReport, PolicySpec
from stir_core.records import PolicyWeights
from stir_core.store.jsonl import read_appended, write_records
from stir_core.store.runs import Run
from stir_core.store.studies import ContinuationsFolder
from stir_core.store.tensors import write_tensors


class PolicyFolder(ContinuationsFolder[PolicySpec, PolicyReport]):
    """Where a run's learned gates are kept."""

    results = ("traces.jsonl", "decisions.jsonl", "rolls.jsonl", "view.safetensors", "weights.jsonl")
    may_change: ClassVar[set[str]] = {"command", "environment", "n", "further", "rollouts", "rolls", "risk", "model", "rows"}
    """These add problems, rollouts and continuations, or are used afterwards."""

    def __init__(self, run: Run):
        super().__init__(run, "policy", "policy.json", (PolicySpec, PolicyReport), "make it with `stir policy`, or again with --fresh")

    def decisions(self) -> list[LoggedDecision]:
        """The drawn decisions."""
        return read_appended(self.file("decisions.jsonl"), LoggedDecision)

    def put_decisions(self, decisions: Sequence[LoggedDecision]) -> None:
        """Write all drawn decisions; the same seed draws the same."""
        write_records(self.part / "decisions.jsonl", decisions)

    def put_gates(
        self, weights: Sequence[PolicyWeights], means: Float[np.ndarray, "points d_model"], axes: Float[np.ndarray, "components d_model"]
    ) -> None:
        """Write the weights, and the view of the state that they belong to."""
        write_tensors(self.part / "view.safetensors", {"means": means, "axes": axes})
        write_records(self.part / "weights.jsonl", weights)
