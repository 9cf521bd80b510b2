"""A run's learned gates on disk: the answers that decisions were drawn in, what came of them, the weights, and the report.

policy.part/   while it is being made
policy/        when it has ended; only then the gates are used
    policy.json  problems.jsonl  traces.jsonl  decisions.jsonl  rolls.jsonl  view.safetensors  weights.jsonl  report.json  report.md
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from stir_core.config import digest_of
from stir_core.errors import StoreError
from stir_core.findings import LoggedDecision, PolicyReport, PolicySpec, Roll
from stir_core.records import PolicyWeights, Trace
from stir_core.store.jsonl import append_records, read_appended, write_records
from stir_core.store.runs import Run
from stir_core.store.studies import StudyFolder
from stir_core.store.tensors import write_tensors

OPEN = {"command", "environment", "n", "further", "rollouts", "rolls", "risk", "model", "rows"}
"""Fields of the spec that may change when the study is continued: they add problems, rollouts and continuations, or are used afterwards."""


class PolicyFolder(StudyFolder[PolicySpec, PolicyReport]):
    """Where a run's learned gates are kept."""

    results = ("traces.jsonl", "decisions.jsonl", "rolls.jsonl", "view.safetensors", "weights.jsonl")

    def __init__(self, run: Run):
        super().__init__(run, "policy", "policy.json", (PolicySpec, PolicyReport), "make it with `stir policy`, or again with --fresh")

    def check(self, known: PolicySpec, spec: PolicySpec) -> None:
        """Refuse other settings than those in :data:`OPEN`.

        Raises:
            StoreError: naming the setting and both values.
        """
        theirs = known.model_dump(mode="json", exclude=OPEN)
        for field, value in spec.model_dump(mode="json", exclude=OPEN).items():
            if digest_of(theirs[field]) != digest_of(value):
                raise StoreError(f"{self.path} was made with {field} = {theirs[field]!r}, not {value!r}: add --fresh to start over")

    def traces(self) -> list[Trace]:
        """The answers under the published gate, so far."""
        return read_appended(self.file("traces.jsonl"), Trace)

    def add_trace(self, trace: Trace) -> None:
        """Append one answer."""
        append_records(self.part / "traces.jsonl", [trace])

    def rolls(self) -> list[Roll]:
        """The continuations so far."""
        return read_appended(self.file("rolls.jsonl"), Roll)

    def add_rolls(self, rolls: Sequence[Roll]) -> None:
        """Append continuations."""
        append_records(self.part / "rolls.jsonl", rolls)

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
