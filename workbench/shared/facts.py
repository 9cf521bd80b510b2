"""One run and one evaluation, read lazily and once, for all pages.

Reads through ``stir_core.store`` only. A stage that has not finished raises the store's :class:`StoreError`, which names the command
that makes it.
"""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from jaxtyping import Float

from stir_core.basis.selection import unit_rows
from stir_core.config import GateConfig, RunConfig, digest_of
from stir_core.evaluate.confounds import ControlVerdict, verdict
from stir_core.findings import Advantage, Answer, CodebookReport, EvaluationReport, EvaluationSpec, MethodReport
from stir_core.policies import Policies
from stir_core.records import Control, Entry, Lens, MarginThreshold, ModelIdentity, Pick, Problem, Rollout, StepState, Trace
from stir_core.seeding import generator_for
from stir_core.store.evaluations import EvaluationFolder, evaluations
from stir_core.store.runs import CHECKED, Library, Run
from stir_core.store.tensors import MappedRows

MOST_SHOWN, SAMPLE_SEED = 5_000, 0
"""Entries that a map or a page of a table draws at most, and the seed of a sample of them."""


class RunFacts:
    """Cached view of a finished or unfinished run. Attributes load on first use; equal fingerprints mean equal facts."""

    def __init__(self, run: Run):
        self.run = run
        self.cosines: dict[tuple[str, str], Float[np.ndarray, "n"]] = {}
        """Of a large library, the cosines of all entries with the last ones that were looked at, by space and entry."""

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

    @property
    def basis_digest(self) -> str | None:
        """Digest of the control basis; ``None`` before that stage."""
        return self.run.digest("basis") if "basis" in self.stages else None

    @cached_property
    def problems(self) -> dict[str, Problem]:
        """Mined problems by id."""
        return {problem.id: problem for problem in self.run.problems()}

    @cached_property
    def held_out(self) -> dict[str, Problem]:
        """Held-out problems by id."""
        return {problem.id: problem for problem in self.run.problems("steered")}

    @cached_property
    def rollouts(self) -> Mapping[tuple[str, int], Rollout]:
        """Rollouts by (problem id, k), each read when it is asked for; likewise lenses and controls."""
        return self.run.rollouts_by_name()

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every mined entry by id, best pair first."""
        return {entry.id: entry for entry in self.run.entries()}

    @cached_property
    def picks(self) -> dict[str, Pick]:
        """The control basis by entry id, in pick order; empty before that stage."""
        return {pick.entry_id: pick for pick in self.run.picks()} if "basis" in self.stages else {}

    @cached_property
    def lenses(self) -> Mapping[str, Lens]:
        """Promoted and suppressed tokens by entry id."""
        return self.run.lenses()

    @cached_property
    def controls(self) -> Mapping[str, Control]:
        """Confound controls by entry id, corrective entries only; empty for a run made before they were measured."""
        return self.run.controls()

    @cached_property
    def verdicts(self) -> dict[str, ControlVerdict]:
        """What the controls say of each corrective entry, by entry id; reads them all."""
        return {entry_id: verdict(control) for entry_id, control in self.controls.items()}

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """The entries that maps and lists draw: all, or of more than :data:`MOST_SHOWN` the basis and a drawn sample, in library order."""
        if not self.large:
            return tuple(self.entries)
        fixed = {*self.picks, self.first_entry}  # pages open with it
        others = [entry_id for entry_id in self.entries if entry_id not in fixed]
        drawn = generator_for(SAMPLE_SEED, "workbench", "shown").permutation(len(others))[: max(0, MOST_SHOWN - len(fixed))]
        inside = {*fixed, *(others[i] for i in drawn)}
        return tuple(entry_id for entry_id in self.entries if entry_id in inside)

    @cached_property
    def shown_set(self) -> frozenset[str]:
        """The same, for look-ups."""
        return frozenset(self.shown)

    @property
    def large(self) -> bool:
        """Whether there are too many entries to draw all, and to hold all their vectors."""
        return len(self.entries) > MOST_SHOWN

    @property
    def sampled(self) -> str:
        """Of a large library, what :attr:`shown` is, in words; else nothing."""
        picked = f"the basis ({len(self.picks):,}) and others " if self.picks else ""
        return f"{len(self.shown):,} of {len(self.entries):,} entries shown: {picked}drawn with seed {SAMPLE_SEED}." if self.large else ""

    @cached_property
    def vectors(self) -> tuple[MappedRows, MappedRows]:
        """Raw keys and actions in the order of :attr:`entries`, in their file."""
        return self.run.mapped_rows(tuple(self.entries.values()))

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
    def commits(self) -> Counter[str]:
        """Number of held-out steps at which the gate committed an entry, by entry id."""
        decided = (step.decision.chosen for trace in self.steered.values() for step in trace.steps)
        return Counter(chosen for chosen in decided if chosen is not None)

    @cached_property
    def first_entry(self) -> str:
        """The entry that pages open with: the one that was committed most often, else the first; there must be one."""
        return max(self.ids, key=lambda entry_id: self.commits[entry_id])

    @cached_property
    def first_answer(self) -> str | None:
        """The held-out problem that pages open with: the first with an impulse in its answer, else the first."""
        steered = (id_ for id_, trace in self.steered.items() if any(step.decision.chosen for step in trace.steps))
        return next(steered, next(iter(self.steered), None))

    @cached_property
    def maps(self) -> dict[str, Float[np.ndarray, "n_entries 2"]]:
        """Two-dimensional coordinates of all entries, in the order of :attr:`entries`, by projection."""
        return self.run.map_coordinates()

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
    def ids(self) -> tuple[str, ...]:
        """Ids of all entries."""
        return tuple(self.entries)

    @cached_property
    def ranked(self) -> tuple[str, ...]:
        """Ids of all entries: the basis in pick order, then the others by quality."""
        picked = {id_: rank for rank, id_ in enumerate(self.picks)}
        return tuple(sorted(self.entries, key=lambda id_: (picked.get(id_, len(picked)), -self.entries[id_].quality)))

    @cached_property
    def row(self) -> dict[str, int]:
        """The place of every entry among :attr:`entries`."""
        return {entry_id: i for i, entry_id in enumerate(self.entries)}

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
