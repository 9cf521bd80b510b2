"""Equality of answers with parts: tuples, intervals, lists and sets are taken apart, and compared part by part. Pure text work.

math-verify reads ``(2,1)`` as an interval and ``12 13`` as 25, and ignores the order where it reads a set. So brackets, order and
number of parts are compared here; the caller's ``leaf`` compares expressions without parts.
"""

import re
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

from stir_core.tasks.latex import plain_number

Leaf = Callable[[str, str], bool]
"""``leaf(gold, answer)``: whether two expressions without parts are equal."""


class Parts(NamedTuple):
    """The parts of an answer."""

    brackets: str
    """``"()"``, ``"[]"``, ``"[)"``, ... or ``"{}"`` for a set, ``""`` for a bare list."""
    items: tuple[str, ...]


def same_answer(gold: str, answer: str, leaf: Leaf) -> bool:
    """Whether two answers in normal form are equal.

    Bare lists and sets are compared without order, tuples and intervals with order and with their brackets; a bare list
    equals the tuple of the same items in the same order.
    """
    if gold == answer:
        return True
    values = plain_number(gold), plain_number(answer)
    if None not in values:
        return values[0] == values[1]
    if re.search(r"\d \d", answer):  # two numbers side by side are not an expression
        return False
    gold_parts, answer_parts = take_apart(gold), take_apart(answer)
    if gold_parts is not None and answer_parts is not None:
        return _same_parts(gold_parts, answer_parts, leaf)
    parts = gold_parts or answer_parts
    return leaf(gold, answer) if parts is None else _one_sided(gold, answer, parts, leaf)


def take_apart(text: str) -> Parts | None:
    """The parts of a tuple, interval, set or list in normal form; ``None`` for an answer without parts."""
    for opening, closing, brackets in (("\\{", "\\}", "{}"), *((a, b, a + b) for a in "([" for b in ")]")):
        if text.startswith(opening) and text.endswith(closing) and _closes_at_end(text, len(opening)):
            items = _split(text[len(opening) : len(text) - len(closing)])
            return Parts(brackets, items) if len(items) > 1 or brackets == "{}" else None
    items = tuple(branch for item in _split(text) for branch in _branches(item))
    return Parts("", items) if len(items) > 1 else None


def _same_parts(gold: Parts, answer: Parts, leaf: Leaf) -> bool:
    if len(gold.items) != len(answer.items):
        return False
    kinds = {gold.brackets, answer.brackets}
    if kinds <= {"", "{}"}:
        return _match_any_order(gold.items, list(answer.items), leaf)
    if len(kinds) == 1 or kinds == {"", "()"}:
        return all(same_answer(a, b, leaf) for a, b in zip(gold.items, answer.items, strict=True))
    return False


def _match_any_order(gold: tuple[str, ...], answer: list[str], leaf: Leaf) -> bool:
    for item in gold:
        partner = next((i for i, other in enumerate(answer) if same_answer(item, other, leaf)), None)
        if partner is None:
            return False
        del answer[partner]
    return True


def _one_sided(gold: str, answer: str, parts: Parts, leaf: Leaf) -> bool:
    """Only one side has parts: a set of one element equals the element, and an interval can be written in another way."""
    if parts.brackets == "{}":
        lone = answer if take_apart(answer) is None else gold
        return len(parts.items) == 1 and same_answer(parts.items[0], lone, leaf)
    return parts.brackets != "" and bool(re.search(r"\\cup|\\in(?![a-z])", gold + answer)) and leaf(gold, answer)


def _branches(item: str) -> tuple[str, ...]:
    """``a \\pm b`` stands for two values."""
    return (item.replace("\\pm", "+"), item.replace("\\pm", "-")) if item.count("\\pm") == 1 else (item,)


def _split(text: str) -> tuple[str, ...]:
    """Cut at the commas outside all brackets."""
    cuts = [i for i, (char, depth) in enumerate(zip(text, _depths(text), strict=True)) if char == "," and depth == 0]
    return tuple(filter(None, (text[start + 1 : stop] for start, stop in pairwise([-1, *cuts, len(text)]))))


def _closes_at_end(text: str, start: int) -> bool:
    """Whether the bracket that ends before ``start`` and opens the text is closed by its last character and not before."""
    closed = (i for i, depth in enumerate(_depths(text[start:]), start=start) if depth == -1)
    return next(closed, None) == len(text) - 1


def _depths(text: str) -> Iterator[int]:
    """Brackets open after each character."""
    return accumulate((char in "([{") - (char in ")]}") for char in text)
