"""One evaluation, read once: its report, its problems and the answers of each method, as far as a page asks for them.

Reads through :class:`stir_core.store.evaluations.EvaluationFolder` only; what is malformed raises the store's own error.
"""

from functools import cached_property

from stir_core.config import GateConfig, digest_of
from stir_core.findings import Answer, EvaluationReport, EvaluationSpec, MethodReport
from stir_core.records import Problem
from stir_core.store.evaluations import EvaluationFolder, evaluations
from stir_core.store.runs import Run


class EvaluationFacts:
    """Cached view of one evaluation. Equal fingerprints mean equal facts."""

    def __init__(self, folder: EvaluationFolder):
        self.folder = folder
        self._answers: dict[str, dict[tuple[str, int], Answer]] = {}

    @cached_property
    def report(self) -> EvaluationReport:
        """What was found."""
        return self.folder.report()

    @property
    def spec(self) -> EvaluationSpec:
        """What was compared."""
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
        found = self.methods[method]
        return max(1, found.answers // max(1, self.report.problems))


def evaluations_of(run: Run) -> dict[str, EvaluationFolder]:
    """A run's evaluations that have a report, by label."""
    return {folder.path.name.removesuffix(".part"): folder for folder in evaluations(run)}


def fingerprint(folder: EvaluationFolder) -> str:
    """Changes as soon as any file of the evaluation is written."""
    files = [(file, file.stat()) for file in sorted(folder.path.rglob("*")) if file.is_file()]
    return digest_of(str(folder.path), [[str(file), stat.st_mtime_ns, stat.st_size] for file, stat in files])


def gate_of(spec: EvaluationSpec, method: str) -> GateConfig:
    """The gate that a method decided with: the run's own, with the parameters that stand in the method's name."""
    given = dict(part.split("=", 1) for part in method.partition(":")[2].split(",") if "=" in part)
    known = GateConfig.model_fields
    return GateConfig.model_validate({key: value for key, value in {**spec.gate, **given}.items() if key in known})
