"""Where a method and the baseline part: problems won, lost and tied, and the two answers to one of them."""

from typing import Any, NamedTuple

import pandas as pd

from stir_core.findings import Answer
from stir_core.records import Trace
from workbench.shared.evaluation_facts import EvaluationFacts
from workbench.shared.text_segments import Segment, segment, trace_segments
from workbench.shared.visible_text import one_line

OUTCOMES = ("won", "lost", "tied")


def answered(facts: EvaluationFacts) -> list[str]:
    """Problems that every method of the report has answered, in order."""
    have = [(facts.answers(name), facts.seeds(name)) for name in facts.methods]
    return [problem for problem in facts.problems if all((problem, seed) in found for found, seeds in have for seed in range(seeds))]


def flip_table(facts: EvaluationFacts, method: str) -> pd.DataFrame:
    """One row a problem, won before lost before tied: how often each was right, what the first answers said, and their tokens."""
    versus, base = facts.methods[method].versus, facts.spec.baseline
    won, lost = (set(versus.won), set(versus.lost)) if versus else (set(), set())
    rows: list[dict[str, Any]] = []
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


class Pair(NamedTuple):
    """The two answers to one problem."""

    baseline: Answer
    method: Answer


def pair_of(facts: EvaluationFacts, method: str, problem: str, seed: int = 0) -> Pair | None:
    """Both answers of a repetition (a method without chance has the same one for all); ``None`` when one is missing."""
    found = [facts.answers(name).get((problem, min(seed, facts.seeds(name) - 1))) for name in (facts.spec.baseline, method)]
    return Pair(found[0], found[1]) if found[0] and found[1] else None


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
