"""Leakage guard: which evaluation problems were mined, word for word or nearly so.

Near-duplicates are found with MinHash over word 3-grams (Broder 1997; datasketch). Two questions that differ in their numbers, or in
their order, are different problems even where every word is the same, and are only counted. Knows questions as text, no model and no files.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from datasketch import MinHash, MinHashLSH

from stir_core.records import Problem

NEAR = 0.8
"""Estimated Jaccard similarity of word 3-grams from which two questions count as near-duplicates."""
PERMUTATIONS = 128
"""Hash functions; the estimate's standard error is below 0.05."""


class Overlap(NamedTuple):
    """An evaluation problem beside the mined problem that it repeats."""

    problem_id: str
    mined_id: str
    similarity: float
    """1 for a word-for-word copy, else the estimated Jaccard similarity."""
    exact: bool


class Leakage(NamedTuple):
    """What evaluation and mined problems share."""

    overlaps: tuple[Overlap, ...]
    """Evaluation problems that were mined, in the order of the evaluation; at most one line each."""
    same_words: int
    """Evaluation problems that repeat a mined one but for its numbers: other problems, told in the same words."""


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
    overlaps: list[Overlap] = []
    same_words = 0
    for problem in evaluated:
        if (copy := exact.get(_whole(problem))) is not None:
            overlaps.append(Overlap(problem.id, copy, 1.0, True))
            continue
        own, own_numbers = _hashed(problem), _numbers(problem)
        alike = [(own.jaccard(hashes[str(name)]), str(name)) for name in index.query(own)]
        alike = sorted((pair for pair in alike if pair[0] >= near), reverse=True)
        copies = [pair for pair in alike if numbers[pair[1]] == own_numbers]
        if copies:
            overlaps.append(Overlap(problem.id, copies[0][1], float(copies[0][0]), False))
        elif alike:
            same_words += 1
    return Leakage(tuple(overlaps), same_words)


def _whole(problem: Problem) -> str:
    """The text without case and spacing; signs stay, for 3 + 5 is not 3 - 5."""
    return " ".join("\n".join([problem.question, *problem.choices]).casefold().split())


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|[-+*/=^<>%]", text)


def _hashed(problem: Problem) -> MinHash:
    words = _words(_whole(problem))
    grams = {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
    made = MinHash(num_perm=PERMUTATIONS)
    made.update_batch([gram.encode() for gram in sorted(grams)])
    return made


def _numbers(problem: Problem) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", _whole(problem))  # in their order: 2 * 6 + 9 is not 6 * 9 + 2
