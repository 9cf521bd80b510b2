"""Leakage guard: which evaluation problems were mined, word for word or nearly so. Compares texts; uses no model and no files.

Every evaluation problem is compared with every mined one by the exact Jaccard similarity of their sets of word 3-grams: the sizes of all
intersections are one product of two sparse matrices. Two questions with the same words but other numbers, or the numbers in another order,
are different problems, and are only counted.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from stir_core.findings import Leak
from stir_core.records import Problem

NEAR = 0.8
"""Jaccard similarity of word 3-grams from which two questions count as near-duplicates."""
_BLOCK = 256
"""Evaluation problems compared at a time, which bounds the memory."""


class Leakage(NamedTuple):
    """What evaluation and mined problems share."""

    overlaps: tuple[Leak, ...]
    """Evaluation problems that were mined, in the order of the evaluation; at most one each."""
    same_words: int
    """Evaluation problems that repeat a mined one with other numbers: other problems, told in the same words."""


def find_overlaps(mined: Iterable[Problem], evaluated: Iterable[Problem], *, near: float = NEAR) -> Leakage:
    """Compare every evaluation problem with all mined ones.

    Args:
        near: Jaccard similarity that counts as a near-duplicate.
    """
    mined, evaluated = list(mined), list(evaluated)
    exact: dict[str, str] = {}
    for problem in mined:
        exact.setdefault(_whole(problem), problem.id)
    overlaps: list[Leak] = []
    same_words = 0
    for problem, alike in zip(evaluated, _alike(mined, evaluated, near), strict=True):
        if (copy := exact.get(_whole(problem))) is not None:
            overlaps.append(Leak(problem_id=problem.id, mined_id=copy, similarity=1.0, exact=True))
        elif copies := [(similarity, other.id) for similarity, other in alike if _numbers(other) == _numbers(problem)]:
            similarity, name = max(copies)
            overlaps.append(Leak(problem_id=problem.id, mined_id=name, similarity=similarity, exact=False))
        elif alike:
            same_words += 1
    return Leakage(tuple(overlaps), same_words)


def _alike(mined: list[Problem], evaluated: list[Problem], near: float) -> list[list[tuple[float, Problem]]]:
    """For each evaluation problem, the mined ones that are at least ``near``, with their similarities."""
    from scipy.sparse import csr_array  # here: pages import this module's callers

    columns: dict[str, int] = {}

    def incidence(problems: list[Problem]) -> csr_array:
        rows = [[columns.setdefault(gram, len(columns)) for gram in _grams(problem)] for problem in problems]
        ends = np.cumsum([0, *map(len, rows)])
        return csr_array((np.ones(ends[-1], np.int32), np.concatenate([*rows, []]).astype(np.int32), ends), (len(rows), len(columns)))

    ours = incidence(mined)
    theirs = incidence(evaluated)
    ours.resize(len(mined), len(columns))
    sizes = np.diff(ours.indptr)
    found: list[list[tuple[float, Problem]]] = []
    for start in range(0, len(evaluated), _BLOCK):
        block = theirs[start : start + _BLOCK]
        shared = (block @ ours.T).tocsr()
        for row, own in enumerate(np.diff(block.indptr)):
            at = slice(shared.indptr[row], shared.indptr[row + 1])
            others, common = shared.indices[at], shared.data[at]
            similarity = common / (sizes[others] + own - common)
            found.append([(float(similarity[i]), mined[others[i]]) for i in np.flatnonzero(similarity >= near)])
    return found


def _whole(problem: Problem) -> str:
    """The text without case and spacing; signs stay, since 3 + 5 is not 3 - 5."""
    return " ".join("\n".join([problem.question, *problem.choices]).casefold().split())


def _grams(problem: Problem) -> set[str]:
    words = re.findall(r"[^\W\d_]+|[-+*/=^<>%]", _whole(problem))
    return {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def _numbers(problem: Problem) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", _whole(problem))  # in order: 2 * 6 + 9 is not 6 * 9 + 2
