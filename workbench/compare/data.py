"""Two libraries of one model side by side: shared, gained and lost actions, spans, settings, and evaluations on the same problems."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from stir_core.basis.alignment import Match, Site, Spans, best_by_chance, best_cosines, matches, moved_on, spans
from stir_core.evaluate import confounds
from stir_core.evaluate.statistics import clustered_difference, clustered_mean, holm, mcnemar
from stir_core.findings import Answer
from stir_core.records import Control, Entry
from stir_core.store.libraries import library_named
from stir_core.store.runs import Library
from workbench.shared.facts import EvaluationFacts, RunFacts, differing_identity
from workbench.shared.intervals import interval

BY = ("actions", "keys")


class LibrarySide(NamedTuple):
    """One of the two libraries, reduced to the entries that are compared."""

    facts: RunFacts
    version: str
    entries: tuple[Entry, ...]
    rows: np.ndarray

    @property
    def sites(self) -> list[Site]:
        """Control point and layer of every entry."""
        return [(entry.m, entry.layer) for entry in self.entries]


class LibraryComparison(NamedTuple):
    """Everything about two sides that does not depend on the cosine from which two entries match."""

    one: LibrarySide
    other: LibrarySide
    best: np.ndarray
    """Cosine of every entry of the first side with the nearest of the second at its place; NaN where there is none."""
    shifted: np.ndarray
    """The same with the second side's control points shifted by one, as a baseline without counterparts."""
    by_chance: float | None
    """Expected largest cosine with as many random directions as an entry has counterparts, averaged over entries."""
    spans: Spans | None


def comparison_refusal(one: RunFacts, other: RunFacts) -> str | None:
    """One line when the two runs are of different models; ``None`` when they may be compared."""
    mine, theirs = one.run.model_identity(), other.run.model_identity()
    if mine is None or theirs is None:
        return f"Run {(one if mine is None else other).name} has no finished stage, so its model is not known."
    fields = differing_identity(mine, theirs)
    if not fields:
        return None
    return (
        f"Runs {one.name} and {other.name} are of different models ({mine.name} and {theirs.name} differ in {', '.join(fields)}): "
        "their vectors live in different spaces. Choose a run of the same model."
    )


def library_side(facts: RunFacts, version: str, by: str) -> LibrarySide:
    """A version of a run's library: its corrective entries with their actions, or all entries with their keys."""
    library: Library = library_named(facts.run, version)
    keep = [i for i, entry in enumerate(library.entries) if by == "keys" or entry.kind == "corrective"]
    rows = library.keys if by == "keys" else library.actions
    return LibrarySide(facts, version, tuple(library.entries[i] for i in keep), rows[keep])


def compare_libraries(one: LibrarySide, other: LibrarySide) -> LibraryComparison:
    """Best cosines with their baselines, and how far the spans agree."""
    best = best_cosines(one.rows, one.sites, other.rows, other.sites)
    shifted = best_cosines(one.rows, one.sites, other.rows, moved_on(other.sites))
    there = Counter(other.sites)
    counts = [there[site] for site in one.sites]
    width = one.rows.shape[1]
    chances = {n: best_by_chance(n, width) for n in set(counts) if n}
    met = [chances[n] for n in counts if n]
    return LibraryComparison(one, other, best, shifted, float(np.mean(met)) if met else None, spans(one.rows, other.rows))


class SharedEntries(NamedTuple):
    """Entries that two libraries share from some cosine on, and entries of only one of them."""

    shared: pd.DataFrame
    lost: pd.DataFrame
    """Entries of the first side without a match."""
    gained: pd.DataFrame
    """Entries of the second side without a match."""


def shared_entries(compared: LibraryComparison, at_least: float, *, assign: bool) -> SharedEntries:
    """Matched pairs with both sides' quality, controls and advantage, and the unmatched entries of either side."""
    one, other = compared.one, compared.other
    pairs = matches(one.rows, one.sites, other.rows, other.sites, at_least=at_least, assign=assign)
    taken, met = {match.one for match in pairs}, {match.other for match in pairs}
    back = best_cosines(other.rows, other.sites, one.rows, one.sites)
    return SharedEntries(
        _matched(compared, pairs),
        _alone(one, [i for i in range(len(one.entries)) if i not in taken], compared.best),
        _alone(other, [i for i in range(len(other.entries)) if i not in met], back),
    )


def _matched(compared: LibraryComparison, pairs: list[Match]) -> pd.DataFrame:
    measured = [(side.facts.controls, side.facts.advantages) for side in (compared.one, compared.other)]
    rows = []
    for match in pairs:
        a, b = compared.one.entries[match.one], compared.other.entries[match.other]
        row: dict[str, object] = {"entry": a.id, "other": b.id, "cosine": match.cosine, "m": a.m, "layer": a.layer}
        for mark, entry, (controls, advantages) in zip(("", " '"), (a, b), measured, strict=True):
            advantage = advantages.get(entry.id)
            row[f"quality{mark}"] = entry.quality
            row[f"controls{mark}"] = _verdict(controls, entry.id)
            row[f"advantage{mark}"] = advantage.value if advantage else None
        rows.append({**row, "problem": a.problem_id, "problem '": b.problem_id})
    columns = ["entry", "other", "cosine", "m", "layer", "quality", "quality '", "controls", "controls '", "advantage", "advantage '"]
    return pd.DataFrame(rows, columns=[*columns, "problem", "problem '"])


def _verdict(controls: Mapping[str, Control], entry_id: str) -> str | None:
    return confounds.verdict(controls[entry_id]) if entry_id in controls else None


def _alone(side: LibrarySide, rows: list[int], best: np.ndarray) -> pd.DataFrame:
    controls, advantages = side.facts.controls, side.facts.advantages
    table = []
    for i in rows:
        entry, near = side.entries[i], float(best[i])
        advantage = advantages.get(entry.id)
        measured = (_verdict(controls, entry.id), advantage.value if advantage else None)
        table.append((entry.id, entry.m, entry.layer, entry.quality, *measured, None if np.isnan(near) else near, entry.problem_id))
    return pd.DataFrame(table, columns=["entry", "m", "layer", "quality", "controls", "advantage", "nearest there", "problem"])


def cosine_table(compared: LibraryComparison) -> pd.DataFrame:
    """Best cosines, tidy: with counterparts, and with entries of the next control point as a baseline."""
    parts = (("same control point", compared.best), ("next control point", compared.shifted))
    rows = [(name, float(value)) for name, values in parts for value in values[~np.isnan(values)]]
    return pd.DataFrame(rows, columns=["against", "cosine"])


def angle_table(spans: Spans) -> pd.DataFrame:
    """Principal angles, smallest first, as cosines and in degrees."""
    degrees = np.degrees(np.arccos(np.clip(spans.cosines, 0, 1)))
    return pd.DataFrame({"direction": range(1, len(spans.cosines) + 1), "cosine": spans.cosines, "degrees": degrees})


def same_questions(one: EvaluationFacts, other: EvaluationFacts) -> list[str]:
    """Ids of problems that both evaluations asked, word for word; empty where task or split differ."""
    if (one.spec.task, one.spec.split) != (other.spec.task, other.spec.split):
        return []
    theirs = other.problems
    return [
        id_ for id_, p in one.problems.items() if id_ in theirs and (theirs[id_].question, theirs[id_].answer) == (p.question, p.answer)
    ]


def evaluation_table(one: EvaluationFacts, other: EvaluationFacts) -> pd.DataFrame:
    """Methods of both evaluations on the problems that both asked: their right answers in percent, the paired difference in points."""
    asked = same_questions(one, other)
    rows = []
    for method in one.methods:
        if method not in other.methods:
            continue
        pairs = _right(one.answers(method), asked), _right(other.answers(method), asked)
        ids = [id_ for id_ in asked if id_ in pairs[0] and id_ in pairs[1]]
        if not ids:
            continue
        first, second = (np.array([right[id_] for id_ in ids]) for right in pairs)
        won, lost = int((second > first).sum()), int((second < first).sum())
        once = bool(np.isin(np.concatenate([first, second]), (0.0, 1.0)).all())
        gaps = (second - first)[:, None].tolist()
        gap = clustered_difference(gaps)[0] if once else clustered_mean(gaps)
        percent = (100 * first.mean(), 100 * second.mean(), 100 * gap.value)
        rows.append((method, len(ids), *percent, interval(gap, "+.1f", 100), won, lost, mcnemar(won, lost) if once else None))
    columns = ["method", "n", "this run", "other run", "difference", "difference 95 %", "won", "lost", "p"]
    corrected = holm({str(row[0]): row[-1] for row in rows if row[-1] is not None})
    return pd.DataFrame(rows, columns=columns).assign(**{"p holm": [corrected.get(str(row[0])) for row in rows]})


def _right(answers: Mapping[tuple[str, int], Answer], asked: list[str]) -> dict[str, float]:
    """Share of right answers per problem, over its repetitions."""
    graded: dict[str, list[float]] = {id_: [] for id_ in asked}
    for (id_, _), answer in answers.items():
        if id_ in graded and answer.verdict is not None:
            graded[id_].append(float(answer.verdict.correct))
    return {id_: sum(rights) / len(rights) for id_, rights in graded.items() if rights}


def comparable(one: Mapping[str, EvaluationFacts], other: Mapping[str, EvaluationFacts]) -> dict[str, tuple[str, str]]:
    """Pairs of evaluations that share problems, as their labels in the two runs; keys name the pair."""
    pairs = [(a, b) for a in one for b in other if same_questions(one[a], other[b])]
    return {f"{a} · {b}" if a != b else a: (a, b) for a, b in pairs}
