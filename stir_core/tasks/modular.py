"""The task ``modular``: a chain of operations modulo a prime, from left to right, each step of which is known.

A problem is ``7+3*5-2?``; its steps are ``<<7+3=10>>``, ``<<10*5=6>>`` and ``<<6-2=4>>`` modulo 11. There are too many problems to list,
so they are drawn from a named stream. As in :mod:`stir_core.tasks.arithmetic` the split is a hash of the content. Additions and
subtractions in a row may be done in any order, multiplications in a row too: such equivalent orders are one content.
"""

import re
from collections.abc import Collection
from itertools import groupby, takewhile
from typing import NamedTuple

import numpy as np

from stir_core.errors import DataError
from stir_core.tasks.arithmetic import split_of


class ModularSetting(NamedTuple):
    """Which chains are asked."""

    name: str
    modulus: int
    """A prime, so that a product with a number other than 0 can be undone and results stay evenly spread."""
    counts: tuple[int, ...]
    """How many operations the problems of training have; one more is asked only in tests (:attr:`longest`)."""
    reordered: bool
    """Whether a solution takes operations that may change places in a random order."""

    @property
    def longest(self) -> int:
        """Operations of the longest problems, which are never trained on."""
        return max(self.counts) + 1


TASK = "modular"
"""What runs at latents call their task; no other run can have it, since it is not among the tasks that `stir run` samples text for."""
MODULAR = {
    setting.name: setting
    for setting in (
        ModularSetting("easy", 11, (2, 3, 4), reordered=False),
        ModularSetting("hard", 11, (3, 4, 5), reordered=False),
        ModularSetting("orders", 11, (2, 3, 4), reordered=True),
    )
}
"""Setting by name."""
_SUMS = "+-"
_QUESTION = re.compile(r"\d{1,4}([-+*]\d{1,4})+")
_LEAST = {"+": 1, "-": 1, "*": 2}
"""Smallest number of an operation that is drawn, by its sign: a smaller one changes nothing, or leaves 0 of everything."""
_MISSES = 10_000
"""After so many draws in a row that give no new problem, the different problems are held to be used up."""


class ModularChain(NamedTuple):
    """The content of a problem: a first number, then operations from left to right."""

    modulus: int
    first: int
    operations: tuple[tuple[str, int], ...]
    """``+``, ``-`` or ``*``, and a number."""

    @property
    def question(self) -> str:
        """The problem as text."""
        return f"{self.first}{''.join(f'{sign}{number}' for sign, number in self.operations)}?"

    @property
    def canonical(self) -> str:
        """The content without the order of operations that may change places; the split hashes this and nothing else."""
        sign = "+" if self.operations[0][0] in _SUMS else "*"
        runs = groupby(((sign, self.first), *self.operations), key=lambda operation: operation[0] in _SUMS)
        return f"modular:{self.modulus}:{[sorted(run) for _, run in runs]}"

    @property
    def values(self) -> tuple[int, ...]:
        """The running value: the first number, then the result of each operation."""
        values = [self.first]
        for sign, number in self.operations:
            values.append(applied(values[-1], sign, number) % self.modulus)
        return tuple(values)

    @property
    def steps(self) -> tuple[str, ...]:
        """The solution, one equation per operation."""
        values = self.values
        return tuple(f"<<{a}{sign}{b}={result}>>" for a, (sign, b), result in zip(values, self.operations, values[1:], strict=False))

    @property
    def given(self) -> tuple[int, ...]:
        """The numbers of the question."""
        return (self.first, *(number for _, number in self.operations))

    def split_in(self, setting: ModularSetting) -> str | None:
        """The split from which the problem, or an equivalent order of it, may be drawn; ``None``: from none, so no training has seen it."""
        sign = "+" if self.operations[0][0] in _SUMS else "*"
        run = 1 + len(list(takewhile(lambda operation: (operation[0] in _SUMS) == (sign == "+"), self.operations)))
        small = [i for i, each in enumerate(((sign, self.first), *self.operations)) if each[1] < _LEAST[each[0]]]
        split = split_of(self.canonical)
        # only what comes first may be small, and one number at most can come first
        if len(small) > 1 or any(i >= run or (i and self.operations[i - 1][0] != sign) for i in small):
            return None
        return None if split == "train" and len(self.operations) not in setting.counts else split

    @property
    def answer(self) -> int:
        """The last value."""
        return self.values[-1]

    def reordered(self, rng: np.random.Generator) -> "ModularChain":
        """The same problem with operations that may change places in a random order."""
        runs = [list(run) for _, run in groupby(self.operations, key=lambda operation: operation[0] in _SUMS)]
        return self._replace(operations=tuple(run[int(i)] for run in runs for i in rng.permutation(len(run))))


def applied(value: int, sign: str, number: int) -> int:
    """The result of one operation, before the modulus is taken."""
    return value + number if sign == "+" else value - number if sign == "-" else value * number


def modular_setting(name: str) -> ModularSetting:
    """The setting of that name.

    Raises:
        DataError: no such setting.
    """
    if name not in MODULAR:
        raise DataError(f"unknown setting {name!r}: take one of {', '.join(MODULAR)}")
    return MODULAR[name]


def asked_chain(text: str, setting: ModularSetting) -> ModularChain:
    """The problem that a text such as ``7+3*5-2?`` asks; spaces and the question mark may be left out.

    Raises:
        DataError: it asks no problem of this setting.
    """
    asked = "".join(str(text).split()).removesuffix("?")
    if not _QUESTION.fullmatch(asked):
        raise DataError(f"{str(text)[:60]!r} is no chain of operations: write numbers with +, - or * between them, such as 7+3*5-2?")
    first, *rest = re.findall(r"[-+*]?\d+", asked)
    operations = tuple((each[0], int(each[1:])) for each in rest)
    large = next((number for number in (int(first), *(number for _, number in operations)) if number >= setting.modulus), None)
    if large is not None:
        raise DataError(f"{large} is too large: numbers of the setting {setting.name} are below its modulus {setting.modulus}")
    least = min(setting.counts)
    if not least <= len(operations) <= setting.longest:
        raise DataError(
            f"{asked[:60]}? has {len(operations)} operation{'' if len(operations) == 1 else 's'}: "
            f"ask between {least} and {setting.longest} in the setting {setting.name}"
        )
    return ModularChain(setting.modulus, int(first), operations)


def draw_chains(
    setting: ModularSetting, split: str, count: int, n: int, rng: np.random.Generator, *, without: Collection[str] = ()
) -> list[ModularChain]:
    """``n`` problems of a split, each with ``count`` operations; numbers are even over their range.

    Args:
        split: ``train``, ``validation`` or ``eval``.
        without: contents (:attr:`ModularChain.canonical`) that are left out; each drawn content is left out afterwards if this is a set.

    Raises:
        DataError: there are not so many different problems.
    """
    drawn: list[ModularChain] = []
    most = setting.modulus * sum(setting.modulus - least for least in _LEAST.values()) ** count if isinstance(without, set) else n
    missed = 0
    while len(drawn) < n:
        if n > most or missed > _MISSES:
            known = f"there are fewer than {most:,} of all splits" if n > most else f"{len(drawn):,} are all that could be drawn"
            raise DataError(f"{n:,} different problems of {count} operations are asked for in the split {split}: {known}, ask for fewer")
        signs = [str(sign) for sign in rng.choice(["+", "-", "*"], size=count)]
        numbers = [int(rng.integers(_LEAST[sign], setting.modulus)) for sign in signs]
        chain = ModularChain(setting.modulus, int(rng.integers(setting.modulus)), tuple(zip(signs, numbers, strict=True)))
        missed += 1
        if split_of(chain.canonical) == split and chain.canonical not in without:
            missed = 0
            drawn.append(chain)
            if isinstance(without, set):
                without.add(chain.canonical)
    return drawn
