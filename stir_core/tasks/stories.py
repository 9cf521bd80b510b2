"""Wording of the synthetic arithmetic problems: names, objects, phrasings and worked steps, as data.

A phrasing may use ``{name}``, ``{things}``, the operands ``{a}``, ``{b}``, ``{c}``, the result of the first of two
operations ``{x}`` and the ``{answer}``. Steps are joined by blank lines, so that a worked solution has control points.
"""

from collections.abc import Callable
from typing import NamedTuple

NAMES = ("Ann", "Ben", "Clara", "David", "Emma", "Finn", "Grace", "Henry", "Ines", "Jack", "Lily", "Maya", "Noah", "Sara", "Tom")
THINGS = ("apples", "books", "coins", "shells", "pens", "marbles", "stickers", "cards", "eggs", "buttons", "stamps", "keys", "cups")


class Story(NamedTuple):
    """One operation pattern with its phrasings."""

    questions: tuple[str, ...]
    steps: tuple[str, ...]
    work: Callable[..., dict[str, int]]
    """Operands -> every number that a phrasing may use."""
    commutes: bool
    """Whether the first two operands can be swapped without changing the content."""


def _add(a: int, b: int) -> dict[str, int]:
    return {"a": a, "b": b, "answer": a + b}


def _add_by_place(a: int, b: int) -> dict[str, int]:
    ta, tb, ua, ub = a // 10 * 10, b // 10 * 10, a % 10, b % 10
    return {"a": a, "b": b, "ta": ta, "tb": tb, "ua": ua, "ub": ub, "t": ta + tb, "u": ua + ub, "answer": a + b}


STORIES: dict[str, Story] = {
    "sum": Story(
        ("What is {a} + {b}?", "Find the sum of {a} and {b}.", "Calculate {a} + {b}.", "Add {a} and {b}. What do you get?"),
        ("We add the two numbers {a} and {b}.", "{a} + {b} = {answer}."),
        _add,
        True,
    ),
    "sum_two_digit": Story(
        ("What is {a} + {b}?", "Find the sum of {a} and {b}.", "Calculate {a} + {b}.", "Add {a} and {b}. What do you get?"),
        ("First add the tens: {ta} + {tb} = {t}.", "Then add the ones: {ua} + {ub} = {u}.", "Together: {t} + {u} = {answer}."),
        _add_by_place,
        True,
    ),
    "sum_three": Story(
        ("What is {a} + {b} + {c}?", "Find the sum of {a}, {b} and {c}.", "Calculate {a} + {b} + {c}."),
        ("First add {a} and {b}: {a} + {b} = {x}.", "Then add {c}: {x} + {c} = {answer}."),
        lambda a, b, c: {"a": a, "b": b, "c": c, "x": a + b, "answer": a + b + c},
        True,
    ),
    "gain": Story(
        (
            "{name} has {a} {things}. {name} buys {b} more {things}.\nHow many {things} does {name} have now?",
            "There are {a} {things} in a box. {name} puts {b} more {things} into it.\nHow many {things} are in the box?",
            "{name} found {a} {things} on Monday and {b} {things} on Tuesday.\nHow many {things} did {name} find altogether?",
        ),
        ("We start with {a} {things} and {b} more come, so we add.", "{a} + {b} = {answer}."),
        _add,
        True,
    ),
    "lose": Story(
        (
            "{name} has {a} {things}. {name} gives away {b} {things}.\nHow many {things} does {name} have left?",
            "There are {a} {things} on a table. {name} takes {b} {things} away.\nHow many {things} are still on the table?",
            "{name} had {a} {things} and lost {b} of them.\nHow many {things} does {name} have now?",
        ),
        ("We start with {a} {things} and {b} go away, so we subtract.", "{a} - {b} = {answer}."),
        lambda a, b: {"a": a, "b": b, "answer": a - b},
        False,
    ),
    "groups": Story(
        (
            "{name} has {a} boxes. There are {b} {things} in each box.\nHow many {things} does {name} have in total?",
            "{name} buys {a} bags with {b} {things} each.\nHow many {things} did {name} buy?",
        ),
        ("There are {a} groups of {b} {things}, so we multiply.", "{a} * {b} = {answer}."),
        lambda a, b: {"a": a, "b": b, "answer": a * b},
        True,
    ),
    "share": Story(
        (
            "{name} shares {a} {things} equally among {b} friends.\nHow many {things} does each friend get?",
            "{name} puts {a} {things} into {b} boxes, the same number in each box.\nHow many {things} are in each box?",
        ),
        ("{a} {things} are split into {b} equal parts, so we divide.", "{a} / {b} = {answer}."),
        lambda a, b: {"a": a, "b": b, "answer": a // b},
        False,
    ),
    "gain_lose": Story(
        (
            "{name} has {a} {things}. {name} buys {b} more {things} and then gives away {c}.\nHow many {things} does {name} have left?",
            "A basket holds {a} {things}. {name} adds {b} {things} and later takes out {c}.\nHow many {things} are in the basket now?",
        ),
        ("First {b} {things} are added: {a} + {b} = {x}.", "Then {c} {things} go away: {x} - {c} = {answer}."),
        lambda a, b, c: {"a": a, "b": b, "c": c, "x": a + b, "answer": a + b - c},
        True,
    ),
    "lose_gain": Story(
        (
            "{name} has {a} {things}. {name} sells {c} {things} and then finds {b} {things}.\nHow many {things} does {name} have now?",
            "There are {a} {things} on a shelf. {name} takes {c} away and puts {b} other {things} there.\nHow many {things} are on it?",
        ),
        ("First {c} {things} go away: {a} - {c} = {x}.", "Then {b} {things} are added: {x} + {b} = {answer}."),
        lambda a, b, c: {"a": a, "b": b, "c": c, "x": a - c, "answer": a - c + b},
        False,  # c is taken from the first operand
    ),
    "groups_gain": Story(
        (
            "{name} has {a} bags with {b} {things} each, and {c} more {things} in a pocket.\nHow many {things} does {name} have in total?",
            "{name} fills {a} boxes with {b} {things} each. Then {c} {things} remain.\nHow many {things} were there at the start?",
        ),
        ("The {a} groups of {b} make {a} * {b} = {x} {things}.", "With the other {c} that is {x} + {c} = {answer}."),
        lambda a, b, c: {"a": a, "b": b, "c": c, "x": a * b, "answer": a * b + c},
        True,
    ),
    "groups_lose": Story(
        (
            "{name} buys {a} packs of {b} {things} and gives {c} {things} to a friend.\nHow many {things} does {name} have left?",
            "There are {a} rows of {b} {things}. {name} takes away {c} {things}.\nHow many {things} are left?",
        ),
        ("The {a} groups of {b} make {a} * {b} = {x} {things}.", "Then {c} go away: {x} - {c} = {answer}."),
        lambda a, b, c: {"a": a, "b": b, "c": c, "x": a * b, "answer": a * b - c},
        True,
    ),
}
