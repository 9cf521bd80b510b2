"""The synthetic task ``arithmetic``: sums and one- or two-step word problems, small enough for a 135M-parameter chat model.

The task is a fixed, finite set of problems: every operation with every choice of numbers in its range occurs exactly once in a level, and
its wording (name, objects, phrasing) is a function of that content. Nothing here depends on a seed, so a problem id means the same text
everywhere; a seed only determines which problems are drawn, and in which order (see :func:`stir_core.tasks.registry.load_problems`).

Levels, from easy to moderate:
    ``sum_tiny``       two numbers from 2 to 9
    ``sum_small``      two numbers from 2 to 20, one of them above 9
    ``sum_two_digit``  two numbers from 10 to 59, one of them above 20
    ``sum_three``      three numbers from 2 to 9
    ``one_step``       a word problem with one operation (add, subtract, multiply, share equally), numbers to 12, products to 81
    ``two_step``       a word problem with two operations on numbers from 2 to 9

Splits are disjoint by construction: the split is a function of a hash of the canonical content (the operation and its
numbers, commuting operands sorted, no names), so ``9 + 12`` as a sum, ``12 + 9``, and a word problem that adds 12 to 9 all
lie in the same split. Answers are exact, non-negative integers. The whole set is generated, never sampled.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations, combinations_with_replacement, product
from typing import NamedTuple

from stir_core.errors import DataError
from stir_core.records import Problem
from stir_core.seeding import generator_for
from stir_core.tasks.rows import hashed
from stir_core.tasks.stories import NAMES, STORIES, THINGS, Story

LEVELS = ("sum_tiny", "sum_small", "sum_two_digit", "sum_three", "one_step", "two_step")
SPLITS = ("train", "validation", "eval")
_SUMS = {"sum_tiny": (range(2, 10), 0), "sum_small": (range(2, 21), 9), "sum_two_digit": (range(10, 60), 20)}
"""Level -> range of the numbers, and a bound that the larger one exceeds, so that no sum belongs to two levels."""
_UP_TO = {"train": 60, "validation": 75, "eval": 100}
"""Per cent of the hash range: 60 % train, 15 % validation, 25 % eval."""


class Content(NamedTuple):
    """The content of a problem, without its wording."""

    canonical: str
    """The operation and its numbers, commuting operands sorted, e.g. ``"2+17-3"``; the split hashes this and nothing else."""
    stories: tuple[str, ...]
    """Stories that can word it; one is chosen."""
    numbers: tuple[int, ...]
    """Operands in the order in which the story names them."""


def split_of(canonical: str) -> str:
    """The split that a canonical content belongs to, on every machine and for every seed."""
    percent = hashed(canonical) % 100
    return next(split for split in SPLITS if percent < _UP_TO[split])


@cache
def arithmetic_problems(split: str) -> tuple[Problem, ...]:
    """All problems of a split, level by level.

    Raises:
        DataError: no such split.
    """
    if split not in SPLITS:
        raise DataError(f"task arithmetic has no split {split!r}: take one of {', '.join(SPLITS)}")
    contents = ((level, content) for level in LEVELS for content in _contents(level))
    return tuple(_problem(level, content, split) for level, content in contents if split_of(content.canonical) == split)


def _contents(level: str) -> Iterator[Content]:
    if level in _SUMS:
        numbers, above = _SUMS[level]
        for a, b in combinations_with_replacement(numbers, 2):
            if b > above:
                yield Content(f"{a}+{b}", ("sum_two_digit" if level == "sum_two_digit" else "sum",), (a, b))
    elif level == "sum_three":
        for a, b, c in combinations_with_replacement(range(2, 10), 3):
            yield Content(f"{a}+{b}+{c}", (level,), (a, b, c))
    elif level == "one_step":
        yield from _one_step()
    else:
        yield from _two_step()


def _one_step() -> Iterator[Content]:
    for a, b in combinations_with_replacement(range(2, 13), 2):
        yield Content(f"{a}+{b}", ("gain",), (a, b))
    for a, b in combinations(range(2, 13), 2):
        yield Content(f"{b}-{a}", ("lose",), (b, a))
    for a, b in combinations_with_replacement(range(2, 10), 2):
        yield Content(f"{a}*{b}", ("groups",), (a, b))
    for a, b in product(range(2, 10), range(2, 10)):
        yield Content(f"{a * b}/{a}", ("share",), (a * b, a))


def _two_step() -> Iterator[Content]:
    for (a, b), c in product(combinations_with_replacement(range(2, 10), 2), range(2, 10)):
        if c <= a + b:
            # a - c + b is the same content told in another order, so both stories share it and one is chosen
            yield Content(f"{a}+{b}-{c}", ("gain_lose", "lose_gain") if c <= a else ("gain_lose",), (a, b, c))
    for (a, b), c in product(combinations_with_replacement(range(2, 10), 2), range(2, 10)):
        yield Content(f"{a}*{b}+{c}", ("groups_gain",), (a, b, c))
        if c <= a * b:
            yield Content(f"{a}*{b}-{c}", ("groups_lose",), (a, b, c))


def _problem(level: str, content: Content, split: str) -> Problem:
    """Word one content. Choices are drawn from a stream named by the content, so the text does not depend on a run's seed."""
    choose = generator_for(0, "arithmetic", level, content.canonical)
    key = content.stories[choose.integers(len(content.stories))]
    story: Story = STORIES[key]
    numbers = list(content.numbers)
    if story.commutes and choose.integers(2):
        numbers[:2] = numbers[1::-1]
    values = story.work(*numbers)
    words = {"name": NAMES[choose.integers(len(NAMES))], "things": THINGS[choose.integers(len(THINGS))]}
    question = story.questions[choose.integers(len(story.questions))].format(**values, **words)
    steps = [step.format(**values, **words) for step in story.steps]
    return Problem(
        id=f"arithmetic/{split}/{level}:{content.canonical}",
        task="arithmetic",
        split=split,
        question=question,
        answer=str(values["answer"]),
        kind="number",
        solution="\n\n".join([*steps, f"#### {values['answer']}"]),
        level=level,
    )
