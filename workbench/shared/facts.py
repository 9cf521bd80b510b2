"""One run and one evaluation, read lazily and once, for all pages.

Reads through ``stir_core.store`` only. A stage that has not finished raises the store's :class:`StoreError`, which names the command
that makes it.
"""

from functools import cached_property

import numpy as np
from jaxtyping import Float

from stir_core.basis.selection import unit_rows
from stir_core.config import GateConfig, RunConfig, digest_of
from stir_core.findings import Advantage, Answer, CodebookReport, EvaluationReport, EvaluationSpec, MethodReport
from stir_core.policies import Policies
from stir_core.records import Control, Entry, Lens, MarginThreshold, ModelIdentity, Pick, Problem, Rollout, StepState, Trace
from stir_core.store.evaluations import EvaluationFolder, evaluations
from stir_core.store.runs import CHECKED, Library, Run


class RunFacts:
    """Cached view of a finished or unfinished run. Attributes load on first use; equal fingerprints mean equal facts."""

    def __init__(self, run: Run):
        self.run = run

    @property
    def name(self) -> str:
        """Folder name."""
        return self.run.name

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return self.run.config

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """Finished stages, in order."""
        return self.run.stages()

    @cached_property
    def problems(self) -> dict[str, Problem]:
        """Mined problems by id."""
        return {problem.id: problem for problem in self.run.problems()}

    @cached_property
    def held_out(self) -> dict[str, Problem]:
        """Held-out problems by id."""
        return {problem.id: problem for problem in self.run.problems("steered")}

    @cached_property
    def rollouts(self) -> dict[tuple[str, int], Rollout]:
        """Rollouts by (problem id, k)."""
        return {(rollout.problem_id, rollout.k): rollout for rollout in self.run.rollouts()}

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every mined entry by id, best pair first."""
        return {entry.id: entry for entry in self.run.entries()}

    @cached_property
    def picks(self) -> dict[str, Pick]:
        """The control basis by entry id, in pick order; empty before that stage."""
        return {pick.entry_id: pick for pick in self.run.picks()} if "basis" in self.stages else {}

    @cached_property
    def lenses(self) -> dict[str, Lens]:
        """Promoted and suppressed tokens by entry id."""
        return self.run.lenses()

    @cached_property
    def controls(self) -> dict[str, Control]:
        """Confound controls by entry id, corrective entries only; empty for a run made before they were measured."""
        return self.run.controls()

    @property
    def policies(self) -> Policies | None:
        """The learned gates; ``None`` without any. Read anew each time, since they are made after the run."""
        return self.run.policies()

    @cached_property
    def margins(self) -> list[MarginThreshold]:
        """What the key margins are worth, for the calibrated rule."""
        return self.run.margins()

    @property
    def advantages(self) -> dict[str, Advantage]:
        """Measured causal value by entry id; empty without a causal study. Read anew each time, since it is measured after the run."""
        return self.run.advantages()

    @cached_property
    def steered(self) -> dict[str, Trace]:
        """Steered held-out answers by problem id; empty before that stage."""
        return {trace.id: trace for trace in self.run.traces("steered")} if "steered" in self.stages else {}

    @cached_property
    def vanilla(self) -> dict[str, Trace]:
        """Vanilla held-out answers by problem id; empty before that stage."""
        return {trace.id: trace for trace in self.run.traces("vanilla")} if "steered" in self.stages else {}

    @cached_property
    def library(self) -> Library:
        """The control basis."""
        return self.run.library()

    @cached_property
    def codebook(self) -> CodebookReport | None:
        """The report of the codebook of steps; ``None``: there is none."""
        return self.run.codebook() if "codes" in self.stages else None

    @cached_property
    def step_codes(self) -> dict[str, np.ndarray]:
        """The codebook's arrays, see ``Run.step_codes``."""
        return self.run.step_codes()

    @cached_property
    def step_rows(self) -> list[StepState]:
        """Every step of every rollout."""
        return self.run.step_rows()

    @cached_property
    def unit_keys(self) -> Float[np.ndarray, "n_entries d_model"]:
        """Unit-normalised keys, in the order of :attr:`entries`."""
        rows = self.run.key_rows()
        return unit_rows(rows[[entry.key_row for entry in self.entries.values()]])

    @cached_property
    def action_ids(self) -> tuple[str, ...]:
        """Ids of the corrective entries, in the order of :attr:`entries`."""
        return tuple(entry.id for entry in self.entries.values() if entry.action_row is not None)

    @cached_property
    def unit_actions(self) -> Float[np.ndarray, "n_corrective d_model"]:
        """Unit-normalised action vectors, in the order of :attr:`action_ids`."""
        rows = self.run.action_rows()
        return unit_rows(rows[[row for entry in self.entries.values() if (row := entry.action_row) is not None]])


def run_fingerprint(run: Run) -> str:
    """Digest of everything a run holds on disk: changes as soon as a stage is made again."""
    return digest_of(str(run.path), run.facts, {stage: run.digest(stage) for stage in run.stages()})


def differing_identity(one: ModelIdentity, other: ModelIdentity) -> list[str]:
    """Checked fields in which two models differ; with none, either may use the other's artefacts."""
    return [field for field in CHECKED if getattr(one, field) != getattr(other, field)]


class EvaluationFacts:
    """Cached view of one evaluation. Equal fingerprints mean equal facts."""

    def __init__(self, folder: EvaluationFolder):
        self.folder = folder
        self._answers: dict[str, dict[tuple[str, int], Answer]] = {}

    @cached_property
    def report(self) -> EvaluationReport:
        """The evaluation's report."""
        return self.folder.report()

    @property
    def spec(self) -> EvaluationSpec:
        """The settings of the evaluation."""
        return self.report.spec

    @cached_property
    def methods(self) -> dict[str, MethodReport]:
        """The reported methods by name, in order; empty while no problem has been answered by all of them."""
        return {method.name: method for method in self.report.methods}

    @cached_property
    def problems(self) -> dict[str, Problem]:
        """Evaluation problems by id, in order."""
        return {problem.id: problem for problem in self.folder.problems()}

    def answers(self, method: str) -> dict[tuple[str, int], Answer]:
        """A method's answers by (problem id, seed)."""
        if method not in self._answers:
            self._answers[method] = {(answer.problem_id, answer.seed): answer for answer in self.folder.answers(method)}
        return self._answers[method]

    def seeds(self, method: str) -> int:
        """Repetitions of a method in the report; 1 for a method without chance."""
        return max(1, self.methods[method].answers // max(1, self.report.problems))


def evaluations_of(run: Run) -> dict[str, EvaluationFolder]:
    """A run's evaluations that have a report, by label."""
    return {folder.path.name.removesuffix(".part"): folder for folder in evaluations(run)}


def evaluation_fingerprint(folder: EvaluationFolder) -> str:
    """Changes as soon as any file of the evaluation is written."""
    files = [(file, file.stat()) for file in sorted(folder.path.rglob("*")) if file.is_file()]
    return digest_of(str(folder.path), [[str(file), stat.st_mtime_ns, stat.st_size] for file, stat in files])


def gate_of(spec: EvaluationSpec, method: str) -> GateConfig:
    """The gate that a method decided with: the run's own, with the parameters in the method's name."""
    changes = dict(part.split("=", 1) for part in method.partition(":")[2].split(",") if "=" in part)
    known = GateConfig.model_fields
    given = {key: value for key, value in {**spec.gate, **changes}.items() if key in known}
    return GateConfig.model_validate(given, strict=False)  # a method's name holds its numbers as text
