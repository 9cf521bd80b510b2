"""Any number of runs on the problems that all of them answered: accuracies with paired differences, and texts beside each other."""

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import NamedTuple

import pandas as pd

from stir_core.config import RunConfig
from stir_core.evaluate.statistics import clustered_difference, holm, mcnemar
from stir_core.records import Problem, Verdict
from workbench.shared.facts import EvaluationFacts, RunFacts
from workbench.shared.intervals import interval, proportion
from workbench.shared.text import Segment, segment

HELD_OUT = ("steered", "vanilla")
"""A run's own held-out answers; all other sources are methods of evaluations."""


class AnsweredProblem(NamedTuple):
    """A problem with one run's answer to it."""

    problem: Problem
    text: str
    verdict: Verdict | None

    @property
    def right(self) -> bool:
        """False also where the answer was not graded."""
        return self.verdict is not None and self.verdict.correct


RunAnswers = Mapping[str, AnsweredProblem]
"""Answers by problem id."""


def common_sources(runs: Iterable[tuple[RunFacts, Mapping[str, EvaluationFacts]]]) -> list[str]:
    """Where all these runs have answers: ``steered`` and ``vanilla`` (held-out), and ``LABEL: METHOD`` of evaluations."""
    found: list[list[str]] = []
    for facts, evaluations in runs:
        own = list(HELD_OUT) if "steered" in facts.stages else []
        found.append(own + [f"{label}: {method}" for label, each in evaluations.items() for method in each.methods])
    return [name for name in found[0] if all(name in other for other in found)] if found else []


def answers_of(facts: RunFacts, evaluations: Mapping[str, EvaluationFacts], source: str) -> RunAnswers:
    """A run's answers from one of its :func:`common_sources`; of repeated answers the first."""
    if source in HELD_OUT:
        traces = facts.steered if source == "steered" else facts.vanilla
        asked = facts.held_out
        return {id_: AnsweredProblem(asked[id_], trace.text, trace.verdict) for id_, trace in traces.items() if id_ in asked}
    label, _, method = source.partition(": ")
    evaluation = evaluations[label]
    first = {id_: answer for (id_, seed), answer in evaluation.answers(method).items() if seed == 0}
    return {id_: AnsweredProblem(p, first[id_].text, first[id_].verdict) for id_, p in evaluation.problems.items() if id_ in first}


def common_problems(answers: Iterable[RunAnswers]) -> list[str]:
    """Ids of the problems that all answered and that are worded alike, in the order of the first."""
    first, *others = answers
    return [id_ for id_, each in first.items() if all(id_ in other and _alike(each, other[id_]) for other in others)]


def _alike(one: AnsweredProblem, other: AnsweredProblem) -> bool:
    return (one.problem.question, one.problem.answer) == (other.problem.question, other.problem.answer)


def runs_accuracy(answers: Mapping[str, RunAnswers]) -> pd.DataFrame:
    """One row per run on the problems that all answered and had graded; differences from the first run, paired by problem."""
    shared = [id_ for id_ in common_problems(answers.values()) if all(each[id_].verdict for each in answers.values())]
    if not shared:
        return pd.DataFrame(columns=COLUMNS)
    first, *_ = answers.values()
    rows: list[dict[str, object]] = []
    for number, (run, own) in enumerate(answers.items()):
        right = proportion(sum(own[id_].right for id_ in shared), len(shared))
        assert right.rate is not None and right.low is not None and right.high is not None
        row: dict[str, object] = {"run": run, "n": right.n, "right": right.k, "accuracy": 100 * right.rate}
        row["accuracy 95 %"] = f"[{100 * right.low:.1f}, {100 * right.high:.1f}]"
        if number:
            gaps = [float(own[id_].right) - first[id_].right for id_ in shared]
            won, lost = gaps.count(1.0), gaps.count(-1.0)
            difference = clustered_difference([[gap] for gap in gaps])[0]
            row |= {"difference": 100 * difference.value, "difference 95 %": interval(difference, "+.1f", 100)}
            row |= {"won": won, "lost": lost, "p": mcnemar(won, lost)}
        rows.append(row)
    corrected = holm({str(row["run"]): float(str(row["p"])) for row in rows if "p" in row})
    return pd.DataFrame([row | {"p holm": corrected.get(str(row["run"]))} for row in rows], columns=COLUMNS)


COLUMNS = ["run", "n", "right", "accuracy", "accuracy 95 %", "difference", "difference 95 %", "won", "lost", "p", "p holm"]


def verdict_table(answers: Mapping[str, RunAnswers]) -> pd.DataFrame:
    """One row per common problem, those on which the runs differ first: whether each run was right, and whether the texts are equal."""
    rows: list[dict[str, object]] = []
    for id_ in common_problems(answers.values()):
        each = [own[id_] for own in answers.values()]
        row: dict[str, object] = {"problem": id_, "same text": len({one.text for one in each}) == 1}
        rows.append(row | {run: one.right if one.verdict else None for run, one in zip(answers, each, strict=True)})
    return pd.DataFrame(
        sorted(rows, key=lambda row: (len({row[run] for run in answers}) == 1, row["same text"])),
        columns=["problem", "same text", *answers],
    )


def settings_table(configs: Mapping[str, RunConfig]) -> pd.DataFrame:
    """Settings in which these runs differ, one column per run."""
    table = pd.DataFrame({name: pd.json_normalize(config.model_dump(mode="json")).iloc[0].map(str) for name, config in configs.items()})
    return table[table.nunique(axis="columns") > 1].rename_axis("setting").reset_index()


def difference_segments(text: str, against: str) -> list[Segment]:
    """``text`` by words: shaded where ``against`` has other words or none; a mark stands for words that only ``against`` has."""
    theirs, ours = (re.findall(r"\s+|\w+|[^\w\s]", each) for each in (against, text))
    pieces: list[Segment] = []
    for change, i, j, start, end in SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes():
        left_out, here = "".join(theirs[i:j]), "".join(ours[start:end])
        tip = f"instead of: {left_out}" if change == "replace" else "added" if change == "insert" else ""
        if change == "delete":
            pieces.append(segment("[−]", "mark", f"left out: {left_out}"))
        else:
            pieces.append(segment(here, tip=tip, shade=0.0 if change == "equal" else 0.75))
    return pieces
