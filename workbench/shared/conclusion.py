"""What an evaluation says of STIR in one sentence, and the names of its methods as words."""

import re
from typing import Literal, NamedTuple

from stir_core.evaluate.statistics import verdict_of
from stir_core.findings import EvaluationReport, MethodReport, p_text
from workbench.shared.intervals import interval

EvaluationVerdict = Literal["helps", "harms", "cannot tell"]
_CONTROL = re.compile(r"\b(variant|library)=")
_TITLES = {"stir": "STIR", "deer": "DEER", "k_scale": "strength"}


def readable(method: str) -> str:
    """A method's name as words: ``stir:noise=matched,variant=random_vector`` is "STIR (random vector, noise matched)"."""
    name, _, rest = method.partition(":")
    pairs = [part.partition("=") for part in rest.split(",") if part]
    words = [(key not in ("variant", "library"), _worded(key, value)) for key, _, value in pairs]
    head = _TITLES.get(name, name.replace("_", " "))
    return f"{head} ({', '.join(text for _, text in sorted(words, key=lambda pair: pair[0]))})" if words else head


def _worded(key: str, value: str) -> str:
    if key in ("variant", "library"):
        return value.replace("_", " ") + (" library" if key == "library" else "")
    return f"{_TITLES.get(key, key.replace('_', ' '))} {value}"


class Conclusion(NamedTuple):
    """What an evaluation says of STIR, in one sentence, and of the other methods."""

    verdict: EvaluationVerdict
    text: str
    others: str
    """The verdicts of the other methods, in words; empty where there are none."""


def conclusion(report: EvaluationReport) -> Conclusion | None:
    """The verdict on STIR against the baseline; ``None`` where the report does not compare them.

    It helps or harms only where all problems are answered, none was mined, and both the interval excludes 0 and Holm's p is below 0.05.
    """
    method = stir_of(report)
    if method is None or method.versus is None:
        return None
    versus, name = method.versus, readable(method.name)
    verdict, why = verdict_on(report, method)
    opening = {"helps": f"{name} helps", "harms": f"{name} does harm"}.get(verdict, f"Cannot tell whether {name} helps, since {why}")
    gap = f"{100 * versus.difference.value:+.1f}".replace("-", "−")
    span = "" if versus.difference.low is None else f", {interval(versus.difference, '+.1f', 100)} at 95 %"
    tests = sum(each.versus is not None for each in report.methods)
    text = (
        f"{opening}: {gap} points of accuracy against {readable(versus.against)}{span}, paired by problem; "
        f"n = {report.problems} problems, {len(versus.won)} won, {len(versus.lost)} lost; "
        f"p {p_text(versus.p_holm)}{f' (Holm, {tests} methods)' if tests > 1 else ''}."
    )
    return Conclusion(verdict, text, _other_verdicts(report, method))


def verdict_on(report: EvaluationReport, method: MethodReport) -> tuple[EvaluationVerdict, str]:
    """The verdict on a method that is compared with the baseline, and why it cannot be told."""
    versus = method.versus
    assert versus is not None
    low, high = versus.difference.bounds
    if report.spec.leaks:
        return "cannot tell", "evaluation problems were mined"
    if not report.complete:
        return "cannot tell", "not all problems are answered yet"
    if versus.difference.low is None:
        return "cannot tell", "there are too few problems for an interval"
    if low <= 0 <= high:
        return "cannot tell", "the interval includes 0"
    if verdict_of(versus.difference.value, versus.p_holm) not in ("helps", "harms"):
        return "cannot tell", "p is not below 0.05 when corrected for the number of methods"
    return ("helps", "") if low > 0 else ("harms", "")


def _other_verdicts(report: EvaluationReport, stir: MethodReport) -> str:
    found: dict[str, list[str]] = {"helps": [], "harms": [], "cannot tell": []}
    for method in report.methods:
        if method.versus and method is not stir:
            found[verdict_on(report, method)[0]].append(readable(method.name))
    return " · ".join(f"{verdict}: {', '.join(names)}" for verdict, names in found.items() if names)


def stir_of(report: EvaluationReport) -> MethodReport | None:
    """The method ``stir``, if it is compared with a baseline; else of ``stir:PARAMETERS`` the one that is told apart best (by Holm's p).

    Controls (another ``variant`` or ``library``) are taken only where there is nothing else.
    """
    compared = [(method, method.versus) for method in report.methods if method.versus and method.name.partition(":")[0] == "stir"]
    ranked = sorted(compared, key=lambda pair: (pair[0].name != "stir", bool(_CONTROL.search(pair[0].name)), pair[1].p_holm))
    return ranked[0][0] if ranked else None
