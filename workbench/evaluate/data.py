"""An evaluation as tables: methods, costs, the problems on which two methods differ, and actions mined on one task used on another."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from stir_core.errors import StoreError
from stir_core.findings import Answer, Estimate, EvaluationReport, MethodReport
from stir_core.records import Trace
from workbench.shared.facts import EvaluationFacts
from workbench.shared.intervals import interval, verdict_of, with_interval
from workbench.shared.text import Segment, one_line, segment, trace_segments

COSTS = {"decoded tokens": "decoded", "seconds": "seconds", "GFLOPs": "gflops"}
"""What accuracy is set against, and the column that holds it."""


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


class ForestRow(NamedTuple):
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
        accuracies.append(ForestRow(method.name, *_times(method.accuracy), "", right))
        if versus := method.versus:
            counts = f"{len(versus.won)} won, {len(versus.lost)} lost, {versus.tied} tied<br>p {versus.p:.3f} (Holm {versus.p_holm:.3f})"
            gap = f"{with_interval(versus.difference, '{:+.1f}', 100)} points<br>{counts}"
            differences.append(ForestRow(method.name, *_times(versus.difference), verdict_of(versus.difference), gap))
    return pd.DataFrame(accuracies, columns=ForestRow._fields), pd.DataFrame(differences, columns=ForestRow._fields)


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


def evaluation_line(report: EvaluationReport) -> str:
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


OUTCOMES = ("won", "lost", "tied")


def answered(facts: EvaluationFacts) -> list[str]:
    """Problems that every method of the report has answered, in order."""
    have = [(facts.answers(name), facts.seeds(name)) for name in facts.methods]
    return [problem for problem in facts.problems if all((problem, seed) in found for found, seeds in have for seed in range(seeds))]


def outcome_table(facts: EvaluationFacts, method: str) -> pd.DataFrame:
    """One row a problem, won before lost before tied: how often each was right, what the first answers said, and their tokens."""
    versus, base = facts.methods[method].versus, facts.spec.baseline
    won, lost = (set(versus.won), set(versus.lost)) if versus else (set(), set())
    rows: list[dict[str, object]] = []
    for id_ in answered(facts):
        ours, theirs = _all(facts, method, id_), _all(facts, base, id_)
        rows.append(
            {
                "outcome": "won" if id_ in won else "lost" if id_ in lost else "tied",
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
    """Both answers of a repetition (a method without chance has the same one for all); ``None`` when one is missing."""
    found = [facts.answers(name).get((problem, min(seed, facts.seeds(name) - 1))) for name in (facts.spec.baseline, method)]
    return BothAnswers(found[0], found[1]) if found[0] and found[1] else None


def answer_facts(answer: Answer) -> str:
    """Counts of an answer in one line. Its seconds are left out: they are a share of a batch's, and only their mean says anything."""
    probe = f" + {answer.probe_tokens} probe" if answer.probe_tokens else ""
    said = "".join(f" · {name} {_short(value)}" for name, value in answer.facts.items())
    return (
        f"{answer.tokens_used} committed{probe} tokens · {answer.forward_tokens} forward · {answer.flops / 1e9:.1f} GFLOPs"
        f" · ended by {answer.finish}{said}"
    )


def verdict_line(answer: Answer) -> str:
    """What grading made of an answer."""
    verdict = answer.verdict
    if verdict is None:
        return "not graded"
    found = "nothing extracted" if verdict.extracted is None else f"extracted {one_line(verdict.extracted, 60)}"
    unfinished = "" if verdict.finished else " · no final answer stated"
    return f"{'right' if verdict.correct else 'wrong'} · {found} · {one_line(verdict.reason, 120)}{unfinished}"


def answer_segments(answer: Answer) -> list[Segment]:
    """The answer as text: with its steps numbered and its impulses marked where it was decoded step by step."""
    return trace_segments(answer.trace) if answer.trace else [segment(answer.text)]


def has_gate(trace: Trace) -> bool:
    """True when something was retrieved at one of its steps, so that there was a decision to make."""
    return any(step.evidence.retrieved for step in trace.steps)


def _all(facts: EvaluationFacts, method: str, problem: str) -> list[Answer]:
    found = facts.answers(method)
    return [found[problem, seed] for seed in range(facts.seeds(method))]


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
        rows += [_transfer_row(run, mined, *pair) for pair in best.values()]
    return pd.DataFrame(rows, columns=COLUMNS), broken


def stir_of(report: EvaluationReport) -> MethodReport | None:
    """The method named ``stir``, else the first one with parameters, where it is compared with a baseline."""
    compared = {method.name: method for method in report.methods if method.versus}
    return compared.get("stir") or next((method for name, method in compared.items() if name.startswith("stir:")), None)


def _rank(report: EvaluationReport) -> tuple[bool, bool, int]:
    return not report.spec.leaks, report.complete, report.problems


def _transfer_row(run: str, mined: str, report: EvaluationReport, method: MethodReport) -> dict[str, object]:
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
