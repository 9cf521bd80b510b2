"""Leakage guard: which evaluation problems were mined, word for word or nearly so. Compares texts; uses no model and no files.

Near-duplicates are found with MinHash over word 3-grams (Broder 1997; datasketch). Two questions with the same words but other numbers, or
the numbers in another order, are different problems, and are only counted.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from datasketch import MinHash, MinHashLSH

from stir_core.findings import Leak
from stir_core.records import Problem

NEAR = 0.8
"""Estimated Jaccard similarity of word 3-grams from which two questions count as near-duplicates."""
PERMUTATIONS = 128
"""Hash functions; the estimate's standard error is below 0.05."""


class Leakage(NamedTuple):
    """What evaluation and mined problems share."""

    overlaps: tuple[Leak, ...]
    """Evaluation problems that were mined, in the order of the evaluation; at most one each."""
    same_words: int
    """Evaluation problems that repeat a mined one with other numbers: other problems, told in the same words."""


def find_overlaps(mined: Iterable[Problem], evaluated: Iterable[Problem], *, near: float = NEAR) -> Leakage:
    """Compare every evaluation problem with all mined ones.

    Args:
        near: estimated Jaccard similarity that counts as a near-duplicate.
    """
    exact: dict[str, str] = {}
    hashes: dict[str, MinHash] = {}
    numbers: dict[str, list[str]] = {}
    index = MinHashLSH(threshold=near, num_perm=PERMUTATIONS)
    for problem in mined:
        exact.setdefault(_whole(problem), problem.id)
        if problem.id not in hashes:
            hashes[problem.id] = _hashed(problem)
            numbers[problem.id] = _numbers(problem)
            index.insert(problem.id, hashes[problem.id])
    overlaps: list[Leak] = []
    same_words = 0
    for problem in evaluated:
        if (copy := exact.get(_whole(problem))) is not None:
            overlaps.append(Leak(problem_id=problem.id, mined_id=copy, similarity=1.0, exact=True))
            continue
        own, own_numbers = _hashed(problem), _numbers(problem)
        alike = [(float(own.jaccard(hashes[str(name)])), str(name)) for name in index.query(own)]
        alike = [(similarity, name) for similarity, name in alike if similarity >= near]
        if copies := [pair for pair in alike if numbers[pair[1]] == own_numbers]:
            similarity, name = max(copies)
            overlaps.append(Leak(problem_id=problem.id, mined_id=name, similarity=similarity, exact=False))
        elif alike:
            same_words += 1
    return Leakage(tuple(overlaps), same_words)


def _whole(problem: Problem) -> str:
    """The text without case and spacing; signs stay, since 3 + 5 is not 3 - 5."""
    return " ".join("\n".join([problem.question, *problem.choices]).casefold().split())


def _hashed(problem: Problem) -> MinHash:
    words = re.findall(r"[^\W\d_]+|[-+*/=^<>%]", _whole(problem))
    grams = {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
    sketch = MinHash(num_perm=PERMUTATIONS)
    sketch.update_batch([gram.encode() for gram in sorted(grams)])
    return sketch


def _numbers(problem: Problem) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", _whole(problem))  # in order: 2 * 6 + 9 is not 6 * 9 + 2
