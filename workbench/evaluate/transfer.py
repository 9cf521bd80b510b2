"""Actions mined on one task, used on another: one cell a run and evaluated task."""

from collections.abc import Iterable, Mapping

import pandas as pd

from stir_core.errors import StoreError
from stir_core.findings import EvaluationReport, MethodReport
from workbench.shared.estimates import interval
from workbench.shared.evaluation_facts import EvaluationFacts

COLUMNS = [
    "run", "mined", "task", "own", "label", "split", "method", "against", "n", "difference", "interval", "p", "p_holm", "note", "shown",
]  # fmt: skip


def transfer_table(found: Mapping[str, tuple[str, Iterable[EvaluationFacts]]]) -> tuple[pd.DataFrame, list[str]]:
    """Paired difference of ``stir`` against the baseline, and one line for every evaluation that could not be read.

    Of several evaluations of one task by one run the finished one without mined problems comes first, then the one with most problems.

    Args:
        found: run name -> task that it was mined on, and its evaluations.
    """
    rows, broken = [], []
    for run, (mined, evaluations) in found.items():
        best: dict[str, tuple[EvaluationReport, MethodReport]] = {}
        for evaluation in evaluations:
            try:
                report = evaluation.report
            except StoreError as error:
                broken.append(str(error))
                continue
            method = stir_of(report)
            if method is not None and (report.spec.task not in best or _rank(report) > _rank(best[report.spec.task][0])):
                best[report.spec.task] = (report, method)
        rows += [_row(run, mined, *pair) for pair in best.values()]
    return pd.DataFrame(rows, columns=COLUMNS), broken


def stir_of(report: EvaluationReport) -> MethodReport | None:
    """The method named ``stir``, else the first one with parameters, where it is compared with a baseline."""
    compared = {method.name: method for method in report.methods if method.versus}
    return compared.get("stir") or next((method for name, method in compared.items() if name.startswith("stir:")), None)


def _rank(report: EvaluationReport) -> tuple[bool, bool, int]:
    return not report.spec.leaks, report.complete, report.problems


def _row(run: str, mined: str, report: EvaluationReport, method: MethodReport) -> dict[str, object]:
    spec, versus = report.spec, method.versus
    notes = ["evaluation problems were mined"] * bool(spec.leaks) + ["not finished"] * (not report.complete)
    return {
        "run": f"{run} ({mined})",
        "mined": mined,
        "task": spec.task,
        "own": mined == spec.task,
        "label": spec.label,
        "split": spec.split,
        "method": method.name,
        "against": versus.against if versus else None,
        "n": report.problems,
        "difference": 100 * versus.difference.value if versus else None,
        "interval": interval(versus.difference, "{:+.1f}", 100) if versus else None,
        "p": versus.p if versus else None,
        "p_holm": versus.p_holm if versus else None,
        "note": ", ".join(notes) or "none",
        "shown": f"{100 * versus.difference.value:+.1f}{' !' if notes else ''}".replace("-", "−") if versus else None,
    }
