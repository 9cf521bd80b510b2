"""The task ``chain``: additions or subtractions in a row, in the small language of the calibration ladder's organisms.

A problem is ``add 17 , 3 , 2 ?`` or ``sub 25 , 3 , 2 ?``: a first number, then two to four numbers that are added to it or taken away from
it. The set of problems is fixed and finite; nothing depends on a seed. As in :mod:`stir_core.tasks.arithmetic` the split is a hash of the
content, with the order of the operands left out, so the same numbers in another order lie in the same split.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

from stir_core.errors import DataError
from stir_core.records import Problem
from stir_core.tasks.arithmetic import SPLITS, split_of

Operation = Literal["add", "sub"]
KINDS: tuple[Operation, ...] = ("add", "sub")
FIRST = range(17, 29)
"""First numbers; the same for both kinds, so that a number does not tell the kind."""
OPERANDS = range(1, 5)
COUNTS = (2, 3, 4)
"""How many operands follow the first number."""
LARGEST = FIRST[-1] + COUNTS[-1] * (OPERANDS[-1] + 1)
"""Largest number of the language: the largest sum, with an error of one in every step."""


class Chain(NamedTuple):
    """The content of a problem."""

    kind: Operation
    numbers: tuple[int, ...]
    """The first number, then the operands."""

    @property
    def question(self) -> str:
        """The problem as text."""
        return f"{self.kind} {' , '.join(map(str, self.numbers))} ?"

    @property
    def canonical(self) -> str:
        """The content without the order of the operands; the split hashes this and nothing else."""
        first, *operands = self.numbers
        return f"chain:{self.kind}:{first}:{sorted(operands)}"

    @property
    def values(self) -> tuple[int, ...]:
        """The running value: the first number, then the right result of each operation."""
        sign = 1 if self.kind == "add" else -1
        return tuple(self.numbers[0] + sign * sum(self.numbers[1:n]) for n in range(1, len(self.numbers) + 1))


def chain_of(question: str) -> Chain:
    """The content of a problem's text.

    Raises:
        DataError: not a question of this language.
    """
    kind, *words = question.split() or [""]
    numbers = words[:-1:2]
    if kind not in KINDS or len(numbers) < 2 or words != f"{' , '.join(numbers)} ?".split() or not all(map(str.isdecimal, numbers)):
        raise DataError(f"{question!r} is not a chain: write a problem such as `add 17 , 3 , 2 ?`")
    return Chain("add" if kind == "add" else "sub", tuple(map(int, numbers)))


def all_chains() -> Iterator[Chain]:
    """Every problem of the language, once; all values are positive."""
    for kind, count, first in product(KINDS, COUNTS, FIRST):
        for operands in product(OPERANDS, repeat=count):
            yield Chain(kind, (first, *operands))


@cache
def chain_problems(split: str) -> tuple[Problem, ...]:
    """All problems of a split.

    Raises:
        DataError: no such split.
    """
    if split not in SPLITS:
        raise DataError(f"task chain has no split {split!r}: take one of {', '.join(SPLITS)}")
    return tuple(_problem(chain, split) for chain in all_chains() if split_of(chain.canonical) == split)


def _problem(chain: Chain, split: str) -> Problem:
    kind, (first, *operands) = chain
    sign = "+" if kind == "add" else "-"
    steps = [f"{a} {sign} {b} = {c}" for a, b, c in zip(chain.values, operands, chain.values[1:], strict=False)]
    return Problem(
        id=f"chain/{split}/{kind}:{first}{sign}{sign.join(map(str, operands))}",
        task="chain",
        split=split,
        question=chain.question,
        answer=str(chain.values[-1]),
        kind="number",
        solution="\n\n".join([*steps, f"#### {chain.values[-1]}"]),
        level=kind,
    )
