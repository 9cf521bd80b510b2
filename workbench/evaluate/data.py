"""An evaluation as tables: methods, costs, problems on which two methods differ, and transfer from the mined task to others."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from stir_core.errors import StoreError
from stir_core.findings import Answer, Estimate, EvaluationReport, MethodReport
from workbench.shared.conclusion import readable, stir_of, verdict_on
from workbench.shared.facts import EvaluationFacts
from workbench.shared.intervals import interval, with_interval
from workbench.shared.text import Segment, one_line, segment, trace_segments

COSTS: dict[str, Callable[[MethodReport], float | None]] = {
    "decoded tokens": lambda method: method.total,
    "seconds": lambda method: method.seconds,
    "GFLOPs": lambda method: method.flops / 1e9,
}
"""Costs of an answer that accuracy is plotted against; ``None`` if not measured."""


def method_table(report: EvaluationReport) -> pd.DataFrame:
    """One row per method, in the order of the report: the baseline first. Cells that do not apply or were not measured are empty."""
    return pd.DataFrame([_row(method) for method in report.methods], columns=list(dict.fromkeys([*RESULTS, *COSTS_AND_TEXT])))


RESULTS = [
    "name", "right", "accuracy", "accuracy 95 %", "won", "lost", "tied", "difference", "difference 95 %", "p", "p holm", "unfinished",
    "about", "method",
]  # fmt: skip
COSTS_AND_TEXT = [
    "name", "committed", "probe", "decoded", "committed vs", "decoded vs", "forward", "gflops", "seconds", "rep 2", "rep 3", "zlib",
    "commits", "source", "method",
]  # fmt: skip
"""The columns of :func:`method_table`, as two tables: results; costs and text statistics."""


_FIELDS = ("unfinished", "committed", "probe", "forward", "seconds", "commits", "about", "source")
"""Columns that show a field of :class:`MethodReport` as it is."""


def _row(method: MethodReport) -> dict[str, object]:
    versus = method.versus
    return {
        "name": readable(method.name),
        "method": method.name,
        "right": f"{method.right} of {method.answers}",
        "accuracy": 100 * method.accuracy.value,
        "accuracy 95 %": interval(method.accuracy, ".1f", 100),
        "won": len(versus.won) if versus else None,
        "lost": len(versus.lost) if versus else None,
        "tied": versus.tied if versus else None,
        "difference": 100 * versus.difference.value if versus else None,
        "difference 95 %": interval(versus.difference, "+.1f", 100) if versus else None,
        "p": versus.p if versus else None,
        "p holm": versus.p_holm if versus else None,
        "decoded": method.total,
        "committed vs": with_interval(versus.committed, "+.1f") if versus else None,
        "decoded vs": with_interval(versus.tokens, "+.1f") if versus else None,
        "gflops": method.flops / 1e9,
        "rep 2": method.repeated_2,
        "rep 3": method.repeated_3,
        "zlib": method.zlib_ratio,
        **{name: getattr(method, name) for name in _FIELDS},
    }


_FOREST = ["name", "n", "value", "low", "high", "verdict", "hover"]


def forest_tables(report: EvaluationReport) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracies of all methods in percent, and paired differences of those that are compared in points; see ``charts.method_forest``.

    ``verdict`` is that of a difference (empty for accuracies); ``hover``, the tooltip below the readable name, begins with the name as it
    is written.
    """
    accuracies, differences = [], []
    for method in report.methods:
        name, written = readable(method.name), f"{method.name}<br>" if ":" in method.name else ""
        right = f"{written}{with_interval(method.accuracy, '.1%')}<br>{method.right} of {method.answers} right ({method.interval})"
        accuracies.append((name, f"n {method.answers}", *_percent(method.accuracy), "", right))
        if versus := method.versus:
            counts = f"{len(versus.won)} won, {len(versus.lost)} lost, {versus.tied} tied<br>p {versus.p:.3f} (Holm {versus.p_holm:.3f})"
            gap = f"{written}{with_interval(versus.difference, '+.1%')}<br>{counts}"
            differences.append((name, f"n {method.answers}", *_percent(versus.difference), verdict_on(report, method)[0], gap))
    return pd.DataFrame(accuracies, columns=_FOREST), pd.DataFrame(differences, columns=_FOREST)


def _percent(estimate: Estimate) -> tuple[float, float, float]:
    low, high = estimate.bounds
    return 100 * estimate.value, 100 * low, 100 * high


def pareto_table(report: EvaluationReport, cost: str) -> pd.DataFrame:
    """Accuracy (percent, with its interval) and mean cost of each method.

    ``front``: on the Pareto front, so that no other method is at least as accurate at no higher cost, and better in one of the two.

    Args:
        cost: a key of :data:`COSTS`. Methods whose cost was not measured are left out.
    """
    rows = [(readable(m.name), COSTS[cost](m), *_percent(m.accuracy), with_interval(m.accuracy, ".1%")) for m in report.methods]
    table = (
        pd.DataFrame(rows, columns=["method", "cost", "accuracy", "low", "high", "shown"]).dropna(subset=["cost"]).reset_index(drop=True)
    )
    points = list(zip(table["cost"], -table["accuracy"], strict=True))
    return table.assign(front=[not any(o != p and o[0] <= p[0] and o[1] <= p[1] for o in points) for p in points])


def evaluation_line(report: EvaluationReport) -> str:
    """The evaluation's settings in one line."""
    spec = report.spec
    levels = f" ({', '.join(spec.levels)})" if spec.levels else ""
    seeds = f" · {spec.seeds} seeds" if spec.seeds > 1 else ""
    return (
        f"{spec.task} · {spec.split}{levels} · n = {report.problems} problems{seeds} · at most {spec.max_new_tokens} committed tokens · "
        f"{spec.model.name} in {spec.model.dtype} · template {spec.template} · baseline {spec.baseline} · basis {spec.basis}"
    )


def warnings_of(report: EvaluationReport, basis: str | None) -> list[str]:
    """Reasons to read the figures with care; ``basis``: digest of the run's present control basis."""
    spec = report.spec
    warnings = []
    if not report.complete:
        missing = [name for name in spec.methods if name not in {method.name for method in report.methods}]
        warnings.append(
            f"Not finished: {report.problems} of {spec.n} problems have been answered by every method; all figures are over those."
            + (f" Not there yet: {', '.join(missing)}." if missing else "")
            + " Call the command again to continue."
        )
    if basis is not None and basis != spec.basis:
        warnings.append(f"Made with another control basis ({spec.basis}) than the run has now ({basis}).")
    return warnings


def leak_line(report: EvaluationReport) -> str | None:
    """The evaluation problems that were also mined, in one line; ``None`` if there is none."""
    leaks = report.spec.leaks
    if not leaks:
        return None
    named = ", ".join(f"{leak.problem_id} is {leak.mined_id}{'' if leak.exact else ' nearly'}" for leak in leaks[:3])
    more = f" and {len(leaks) - 3} more" if len(leaks) > 3 else ""
    return f"Evaluation problems were mined: {len(leaks)} of {report.spec.n} ({named}{more}). No figure below is a held-out result."


OUTCOMES = ("won", "lost", "tied")


def answered(facts: EvaluationFacts) -> list[str]:
    """Problems that every method of the report has answered, in order."""
    methods = [(facts.answers(name), facts.seeds(name)) for name in facts.methods]
    return [id_ for id_ in facts.problems if all((id_, seed) in answers for answers, seeds in methods for seed in range(seeds))]


def outcome_table(facts: EvaluationFacts, method: str) -> pd.DataFrame:
    """One row per problem, won before lost before tied: how often each method was right, its first answer, and its mean tokens."""
    versus, base = facts.methods[method].versus, facts.spec.baseline
    outcomes = dict.fromkeys(versus.won, "won") | dict.fromkeys(versus.lost, "lost") if versus else {}
    rows: list[dict[str, object]] = []
    for id_ in answered(facts):
        ours, theirs = _all(facts, method, id_), _all(facts, base, id_)
        rows.append(
            {
                "outcome": outcomes.get(id_, "tied"),
                "problem": id_,
                "baseline right": _right(theirs),
                "method right": _right(ours),
                "baseline answer": _extracted(theirs[0]),
                "method answer": _extracted(ours[0]),
                "gold": facts.problems[id_].answer,
                "baseline tokens": sum(a.tokens_used + a.probe_tokens for a in theirs) / len(theirs),
                "method tokens": sum(a.tokens_used + a.probe_tokens for a in ours) / len(ours),
                "question": one_line(facts.problems[id_].question, 110),
            }
        )
    return pd.DataFrame(sorted(rows, key=lambda row: OUTCOMES.index(row["outcome"])), columns=FLIP_COLUMNS)


FLIP_COLUMNS = [
    "outcome", "problem", "baseline right", "method right", "baseline answer", "method answer", "gold",
    "baseline tokens", "method tokens", "question",
]  # fmt: skip


class BothAnswers(NamedTuple):
    """The two answers to one problem."""

    baseline: Answer
    method: Answer


def pair_of(facts: EvaluationFacts, method: str, problem: str, seed: int = 0) -> BothAnswers | None:
    """Both answers under one seed (a deterministic method has one answer for all seeds); ``None`` if one is missing."""
    ours, theirs = (facts.answers(name).get((problem, min(seed, facts.seeds(name) - 1))) for name in (method, facts.spec.baseline))
    return BothAnswers(theirs, ours) if theirs and ours else None


def answer_facts(answer: Answer) -> str:
    """Counts of an answer in one line. Its seconds are left out: they are a share of a batch's time, so only their mean is meaningful."""
    probe = f" + {answer.probe_tokens} probe" if answer.probe_tokens else ""
    others = "".join(f" · {name} {_short(value)}" for name, value in answer.facts.items())
    return (
        f"{answer.tokens_used} committed{probe} tokens · {answer.forward_tokens} forward · {answer.flops / 1e9:.1f} GFLOPs"
        f" · ended by {answer.finish}{others}"
    )


def verdict_line(answer: Answer) -> str:
    """The verdict on an answer in one line."""
    verdict = answer.verdict
    if verdict is None:
        return "not graded"
    extracted = "nothing extracted" if verdict.extracted is None else f"extracted {one_line(verdict.extracted, 60)}"
    unfinished = "" if verdict.finished else " · no final answer stated"
    return f"{'right' if verdict.correct else 'wrong'} · {extracted} · {one_line(verdict.reason, 120)}{unfinished}"


def answer_segments(answer: Answer) -> list[Segment]:
    """The text of an answer; if it was decoded step by step, with steps numbered and impulses marked."""
    return trace_segments(answer.trace) if answer.trace else [segment(answer.text)]


def _all(facts: EvaluationFacts, method: str, problem: str) -> list[Answer]:
    """A method's answers to a problem, one for each seed."""
    return [facts.answers(method)[problem, seed] for seed in range(facts.seeds(method))]


def _right(answers: list[Answer]) -> str:
    right = sum(answer.verdict is not None and answer.verdict.correct for answer in answers)
    return ("yes" if right else "no") if len(answers) == 1 else f"{right} of {len(answers)}"


def _extracted(answer: Answer) -> str | None:
    return one_line(answer.verdict.extracted, 40) if answer.verdict and answer.verdict.extracted is not None else None


def _short(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else one_line(str(value), 60)


COLUMNS = [
    "run", "mined", "task", "own", "label", "split", "method", "against", "n", "difference", "interval", "p", "p_holm", "note", "shown",
]  # fmt: skip


def transfer_table(runs: Mapping[str, tuple[str, Iterable[EvaluationFacts]]]) -> tuple[pd.DataFrame, list[str]]:
    """Paired difference of ``stir`` from the baseline, one row for each run and evaluated task.

    Of several evaluations of one task by one run, one without mined problems is preferred, then a finished one, then the largest.

    Args:
        runs: run name -> task that it was mined on, and its evaluations.

    Returns:
        The table, and one line for each evaluation that cannot be read.
    """
    rows, broken = [], []
    for run, (mined, evaluations) in runs.items():
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
        rows += [_transfer_row(run, mined, *pair) for pair in best.values()]
    return pd.DataFrame(rows, columns=COLUMNS), broken


def _rank(report: EvaluationReport) -> tuple[bool, bool, int]:
    return not report.spec.leaks, report.complete, report.problems


def _transfer_row(run: str, mined: str, report: EvaluationReport, method: MethodReport) -> dict[str, object]:
    spec, versus = report.spec, method.versus
    assert versus is not None  # stir_of takes compared methods only
    notes = ["evaluation problems were mined"] * bool(spec.leaks) + ["not finished"] * (not report.complete)
    return {
        "run": f"{run} ({mined})",
        "mined": mined,
        "task": spec.task,
        "own": mined == spec.task,
        "label": spec.label,
        "split": spec.split,
        "method": method.name,
        "against": versus.against,
        "n": report.problems,
        "difference": 100 * versus.difference.value,
        "interval": interval(versus.difference, "+.1f", 100),
        "p": versus.p,
        "p_holm": versus.p_holm,
        "note": ", ".join(notes) or "none",
        "shown": f"{100 * versus.difference.value:+.1f}{' !' if notes else ''}".replace("-", "−"),
    }
