"""The methods of an evaluation as tables: accuracies, paired differences, costs, and which of them no other one beats at both."""

from typing import NamedTuple

import pandas as pd

from stir_core.evaluate.report import markdown
from stir_core.findings import Estimate, EvaluationReport, MethodReport
from workbench.shared.estimates import interval, verdict_of, with_interval

COSTS = {"decoded tokens": "decoded", "seconds": "seconds", "GFLOPs": "gflops"}
"""What accuracy is set against, and the column behind it."""


def method_table(report: EvaluationReport) -> pd.DataFrame:
    """One row a method, baseline first as in the report. What does not apply, or was not measured, is empty."""
    return pd.DataFrame([_row(method) for method in report.methods], columns=[*RESULTS, *COSTS_AND_TEXT[1:]])


RESULTS = [
    "method", "right", "accuracy", "accuracy 95 %", "won", "lost", "tied", "difference", "difference 95 %", "p", "p holm", "unfinished",
    "about",
]  # fmt: skip
COSTS_AND_TEXT = [
    "method", "committed", "probe", "decoded", "decoded vs", "forward", "gflops", "seconds", "rep 2", "rep 3", "zlib", "commits", "source",
]  # fmt: skip
"""The table's two halves: what was right, and what it cost and how its text reads."""


def _row(method: MethodReport) -> dict[str, object]:
    versus = method.versus
    return {
        "method": method.name,
        "right": f"{method.right} of {method.answers}",
        "accuracy": 100 * method.accuracy.value,
        "accuracy 95 %": interval(method.accuracy, "{:.1f}", 100),
        "won": len(versus.won) if versus else None,
        "lost": len(versus.lost) if versus else None,
        "tied": versus.tied if versus else None,
        "difference": 100 * versus.difference.value if versus else None,
        "difference 95 %": interval(versus.difference, "{:+.1f}", 100) if versus else None,
        "p": versus.p if versus else None,
        "p holm": versus.p_holm if versus else None,
        "unfinished": method.unfinished,
        "committed": method.committed,
        "probe": method.probe,
        "decoded": method.total,
        "decoded vs": with_interval(versus.tokens, "{:+.1f}") if versus else None,
        "forward": method.forward,
        "gflops": method.flops / 1e9,
        "seconds": method.seconds,
        "rep 2": method.repeated_2,
        "rep 3": method.repeated_3,
        "zlib": method.zlib_ratio,
        "commits": method.commits,
        "about": method.about,
        "source": method.source,
    }


class Effect(NamedTuple):
    """One row of a forest plot."""

    name: str
    value: float
    low: float
    high: float
    verdict: str
    """``"helps"``, ``"harms"`` or ``"no effect seen"``, by whether the interval holds 0; ``""`` where there is nothing to compare with."""
    hover: str
    """What pointing at it shows below its name."""


def forest_tables(report: EvaluationReport) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracies of all methods, and paired differences of those that are compared, both in percent."""
    accuracies, differences = [], []
    for method in report.methods:
        right = f"{with_interval(method.accuracy, '{:.1f}', 100)} %<br>{method.right} of {method.answers} right ({method.interval})"
        accuracies.append(Effect(method.name, *_times(method.accuracy), "", right))
        if versus := method.versus:
            counts = f"{len(versus.won)} won, {len(versus.lost)} lost, {versus.tied} tied<br>p {versus.p:.3f} (Holm {versus.p_holm:.3f})"
            gap = f"{with_interval(versus.difference, '{:+.1f}', 100)} points<br>{counts}"
            differences.append(Effect(method.name, *_times(versus.difference), verdict_of(versus.difference), gap))
    return pd.DataFrame(accuracies, columns=Effect._fields), pd.DataFrame(differences, columns=Effect._fields)


def _times(estimate: Estimate, factor: float = 100) -> tuple[float, float, float]:
    return factor * estimate.value, factor * estimate.low, factor * estimate.high


def pareto_table(report: EvaluationReport, cost: str) -> pd.DataFrame:
    """Accuracy (percent, with its interval) and cost a method; ``front``: no other one is as right for less, or more right for as much.

    Args:
        cost: a value of :data:`COSTS`. Methods whose cost was not measured are left out.
    """
    of = {"decoded": lambda m: m.total, "seconds": lambda m: m.seconds, "gflops": lambda m: m.flops / 1e9}[cost]
    rows = [(m.name, of(m), *_times(m.accuracy)) for m in report.methods if of(m) is not None]
    table = pd.DataFrame(rows, columns=["method", "cost", "accuracy", "low", "high"])
    points = [(float(row[1]), float(row[2])) for row in rows]
    return table.assign(front=[not any(_beats(other, point) for other in points) for point in points])


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other != point and other[0] <= point[0] and other[1] >= point[1]


def facts_line(report: EvaluationReport) -> str:
    """What was compared, in one line."""
    spec = report.spec
    levels = f" ({', '.join(spec.levels)})" if spec.levels else ""
    seeds = f" · {spec.seeds} seeds" if spec.seeds > 1 else ""
    return (
        f"{spec.task} · {spec.split}{levels} · n = {report.problems} problems{seeds} · at most {spec.max_new_tokens} committed tokens · "
        f"{spec.model.name} in {spec.model.dtype} · template {spec.template} · baseline {spec.baseline} · basis {spec.basis}"
    )


def warnings_of(report: EvaluationReport, basis: str | None) -> list[str]:
    """What a reader must know before trusting a figure; ``basis``: digest of the run's control basis as it is now."""
    spec = report.spec
    found = []
    if not report.complete:
        missing = [name for name in spec.methods if name not in {method.name for method in report.methods}]
        found.append(
            f"Not finished: {report.problems} of {spec.n} problems have been answered by every method; all figures are over those."
            + (f" Not there yet: {', '.join(missing)}." if missing else "")
            + " Call the command again to go on."
        )
    if basis is not None and basis != spec.basis:
        found.append(f"Made with another control basis ({spec.basis}) than the run has now ({basis}).")
    return found


def leak_line(report: EvaluationReport) -> str | None:
    """Which evaluation problems were mined; ``None`` when none was."""
    leaks = report.spec.leaks
    if not leaks:
        return None
    named = ", ".join(f"{leak.problem_id} is {leak.mined_id}{'' if leak.exact else ' nearly'}" for leak in leaks[:3])
    more = f" and {len(leaks) - 3} more" if len(leaks) > 3 else ""
    return f"Evaluation problems were mined: {len(leaks)} of {report.spec.n} ({named}{more}). No figure below is a held-out result."


def report_markdown(report: EvaluationReport) -> str:
    """The report as the command line writes it."""
    return markdown(report)
