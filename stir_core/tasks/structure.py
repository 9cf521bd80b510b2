"""Equality of answers that have parts: tuples, intervals, lists and sets are taken apart here, and compared part by part.

math-verify reads ``(2,1)`` as an interval, ``12 13`` as 25 and drops the order of what it takes for a set. So brackets,
order and number of parts are decided here; a caller-given ``leaf`` compares what has no parts any more. Pure text work.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from stir_core.tasks.latex import plain_number

Leaf = Callable[[str, str], bool]
"""``leaf(gold, answer)``: whether two expressions without parts are equal."""


class Parts(NamedTuple):
    """An answer that has parts."""

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
    if re.search(r"\d \d", answer):  # two numbers side by side are no expression
        return False
    wanted, found = take_apart(gold), take_apart(answer)
    if wanted is None and found is None:
        return leaf(gold, answer)
    if wanted is None or found is None:
        return _one_sided(gold, answer, wanted or found, leaf)
    return _same_parts(wanted, found, leaf)


def take_apart(text: str) -> Parts | None:
    """The parts of a tuple, interval, set or list in normal form; ``None`` for an answer without parts."""
    for opening, closing, brackets in (("\\{", "\\}", "{}"), *((a, b, a + b) for a in "([" for b in ")]")):
        if text.startswith(opening) and text.endswith(closing) and _closes_at_end(text, len(opening)):
            items = _split(text[len(opening) : len(text) - len(closing)])
            return Parts(brackets, items) if len(items) > 1 or brackets == "{}" else None
    items = tuple(branch for item in _split(text) for branch in _branches(item))
    return Parts("", items) if len(items) > 1 else None


def _same_parts(wanted: Parts, found: Parts, leaf: Leaf) -> bool:
    if len(wanted.items) != len(found.items):
        return False
    kinds = {wanted.brackets, found.brackets}
    if kinds <= {"", "{}"}:
        return _match_any_order(wanted.items, list(found.items), leaf)
    if len(kinds) == 1 or kinds == {"", "()"}:
        return all(same_answer(a, b, leaf) for a, b in zip(wanted.items, found.items, strict=True))
    return False


def _match_any_order(wanted: tuple[str, ...], found: list[str], leaf: Leaf) -> bool:
    for item in wanted:
        partner = next((i for i, other in enumerate(found) if same_answer(item, other, leaf)), None)
        if partner is None:
            return False
        del found[partner]
    return True


def _one_sided(gold: str, answer: str, parts: Parts | None, leaf: Leaf) -> bool:
    """One side has parts, the other has none: a one-element set is its element, an interval may be written otherwise."""
    assert parts is not None
    if parts.brackets == "{}":
        lone = answer if take_apart(answer) is None else gold
        return len(parts.items) == 1 and same_answer(parts.items[0], lone, leaf)
    return parts.brackets != "" and bool(re.search(r"\\cup|\\in(?![a-z])", gold + answer)) and leaf(gold, answer)


def _branches(item: str) -> tuple[str, ...]:
    """``a \\pm b`` stands for two values."""
    return (item.replace("\\pm", "+"), item.replace("\\pm", "-")) if item.count("\\pm") == 1 else (item,)


def _split(text: str) -> tuple[str, ...]:
    """Cut at the commas that no bracket encloses."""
    items, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            items.append(text[start:i])
            start = i + 1
    return tuple(item for item in [*items, text[start:]] if item)


def _closes_at_end(text: str, start: int) -> bool:
    """Whether the bracket that opens the text is closed by its last character and not before."""
    depth = 1
    for i, char in enumerate(text[start:], start=start):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False
