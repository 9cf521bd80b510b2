"""What a run's evaluations measured, as a bundle tells it: with intervals, and saying whether it is of the library that is shipped."""

from stir_core.deploy.bundle.manifest import EvaluationSummary, LibraryKind, MeasuredEvaluation, MeasuredMethod
from stir_core.findings import EvaluationReport, MethodReport
from stir_core.store.curated import library_digest
from stir_core.store.evaluations import evaluations
from stir_core.store.runs import Run


def summary_of(run: Run, digest: str, library: LibraryKind) -> EvaluationSummary:
    """Every finished evaluation of the run's present basis.

    Args:
        digest: of the library that is shipped (``library_digest``).
    """
    reports = [folder.report() for folder in evaluations(run) if folder.finished]
    basis = run.digest("basis") if run.finished("basis") else None
    of_basis = basis is not None and (library == "basis" or library_digest(run.library()) == digest)
    found = tuple(_measured(report, digest, of_basis) for report in reports if report.complete and report.spec.basis == basis)
    if found:
        return EvaluationSummary(evaluated=True, evaluations=found)
    other = f" ({len(reports)} of another basis)" if reports else ""
    return EvaluationSummary(evaluated=False, reason=f"no finished evaluation of this run's basis{other}: make one with `stir eval`")


def _measured(report: EvaluationReport, digest: str, of_basis: bool) -> MeasuredEvaluation:
    spec = report.spec
    return MeasuredEvaluation(
        label=spec.label,
        task=spec.task,
        split=spec.split,
        problems=report.problems,
        baseline=spec.baseline,
        leaks=len(spec.leaks),
        same_library=(of_basis and any(name.partition(":")[0] == "stir" and "library=" not in name for name in spec.methods))
        or (spec.curated == digest and any("library=curated" in name for name in spec.methods)),
        methods=tuple(_method(method) for method in report.methods),
    )


def _method(method: MethodReport) -> MeasuredMethod:
    versus = method.versus
    return MeasuredMethod(
        name=method.name,
        accuracy=method.accuracy,
        interval=method.interval,
        difference=versus.difference if versus else None,
        p_holm=versus.p_holm if versus else None,
        tokens=versus.tokens if versus else None,
    )
