"""Equality of answers with parts: lists, sets, tuples, intervals and unions are taken apart, and compared part by part. Pure text work.

Parsers read ``(2,1)`` as an interval and ``12 13`` as 25, and forget the order of a set. So brackets, order and number of parts are
compared here; inequalities are read as the intervals that they describe, and the caller's ``leaf`` compares expressions without parts.
"""

import re
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

from stir_core.tasks.latex import based_number, plain_number

Leaf = Callable[[str, str], bool]
"""``leaf(gold, answer)``: whether two expressions without parts are equal."""

_RELATION = re.compile(r"\\(?:le|ge|ne|in|approx)(?![a-zA-Z]) ?|[<>=]")
_MIRRORED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}
_VARIABLE = re.compile(r"(?!\\(?:pi|infty)(?![a-z]))(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?|\([A-Za-z]\))?")

_ABSOLUTE = re.compile(r"\|([A-Za-z])([-+]\d+(?:\.\d+|/\d+)?)?\|")
_REALS = "(-\\infty,\\infty)"


class Parts(NamedTuple):
    """The parts of an answer."""

    brackets: str
    """``"()"``, ``"[]"``, ``"[)"``, ... or ``"{}"`` for a set, ``"\\cup"`` for a union, ``""`` for a bare list."""
    items: tuple[str, ...]


def same_answer(gold: str, answer: str, leaf: Leaf) -> bool:
    """Whether two answers in normal form are equal.

    Bare lists, sets and unions are compared without order, tuples and intervals with order and with their brackets; a bare list equals
    the tuple of the same items in the same order. An inequality in one variable equals the interval of its solutions. Where only the
    answer is an equation, its last side counts, and where only the gold answer says ``x = 5``, so does its right side.
    """
    if (same := same_text(gold, answer)) is not None:
        return same
    if re.search(r"\d \d", answer):  # two numbers side by side are not an expression
        return False
    if "\\approx" in answer and "\\approx" not in gold and len(sides := relation(answer)[0]) > 1:
        return any(same_answer(gold, side, leaf) for side in sides)
    (gold_name, gold), (name, answer) = _solutions(gold), _solutions(answer)
    if (gold_name and name and gold_name != name) or not gold or not answer:
        return False
    if gold_name or name:
        return same_answer(gold, answer, leaf)
    gold, answer = _right_sides(gold, answer)
    gold_parts, answer_parts = take_apart(gold), take_apart(answer)
    if gold_parts is not None and answer_parts is not None:
        return _same_parts(gold_parts, answer_parts, leaf)
    if (parts := gold_parts or answer_parts) is not None:  # only a set of one element equals what has no parts
        lone = answer if gold_parts else gold
        if parts.brackets != "{}" or len(parts.items) != 1 or "\\emptyset" in (lone, parts.items[0]):  # {{}} is not empty
            return False
        return same_answer(parts.items[0], lone, leaf)
    return same if (same := same_text(gold, answer)) is not None else leaf(gold, answer)


def same_text(gold: str, answer: str) -> bool | None:
    """Whether two answers in normal form are equal, where their texts and exact arithmetic decide it; else ``None``.

    A number keeps its base; where the answer names none, its digits are read in the base of the gold answer.
    """
    if gold == answer:
        return True
    values = plain_number(gold), plain_number(answer)
    if None not in values:
        return values[0] == values[1]
    based, based_answer = based_number(gold), based_number(answer)
    if based and based_answer:
        return based == based_answer
    if based:
        return based[0] == answer.lower() if re.fullmatch(r"-?[\dA-Fa-f.]+", answer) else None
    if based_answer and values[0] is not None:
        return based_answer[1] == 10 and plain_number(based_answer[0]) == values[0]
    return None


def relation(text: str) -> tuple[list[str], list[str]]:
    """The sides of a relation in normal form, and the signs between them; signs inside brackets do not count."""
    depths = list(_depths(text))
    signs = [match for match in _RELATION.finditer(text) if depths[match.start()] == 0]
    edges = [0, *(edge for match in signs for edge in match.span()), len(text)]
    return [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)], [match[0].strip() for match in signs]


def mirrored(sides: list[str], signs: list[str]) -> tuple[list[str], list[str]]:
    """A relation read from the right."""
    return sides[::-1], [_MIRRORED[sign] for sign in reversed(signs)]


def _solutions(text: str) -> tuple[str, str]:
    """The variable and the set of solutions of an inequality in one variable, of ``x \\in A`` and of several joined by "or".

    Returns:
        (variable, intervals in normal form), or ("", the text) where it is none of these.
    """
    sides, signs = relation(text)
    if not signs or "=" in signs:
        return "", text
    if len(both := _split(text, "\\land")) == 2:
        (name, left), (other, right) = map(_solutions, both)
        overlap = _overlap(left, right) or _overlap(right, left)
        return (name, overlap) if name == other and overlap else ("", text)
    if (items := _split(text, ",")) and len(items) > 1 and not text.startswith(("(", "[")):
        solved = [_solutions(item) for item in items]
        solved = [each for each in solved if each[1] != _REALS] or solved[:1]  # "x > 2, x real"
        return (solved[0][0], "\\cup".join(part for _, part in solved)) if len({name for name, _ in solved}) == 1 else ("", text)
    if len(sides) == 2 and not (_VARIABLE.fullmatch(sides[0]) or _ABSOLUTE.fullmatch(sides[0])) and "\\in" not in signs:
        sides, signs = mirrored(sides, signs)
    if len(sides) == 3 and set(signs) <= {">", "\\ge"}:
        sides, signs = mirrored(sides, signs)
    if len(sides) == 2 and (within := _ABSOLUTE.fullmatch(sides[0])) and (bound := plain_number(sides[1])) is not None and bound > 0:
        name, centre = within[1], -(plain_number(within[2] or "0") or 0)
        left, right = centre - bound, centre + bound
        outside = {">": f"(-\\infty,{left})\\cup({right},\\infty)", "\\ge": f"(-\\infty,{left}]\\cup[{right},\\infty)"}
        inside = {"<": f"({left},{right})", "\\le": f"[{left},{right}]"}
        return (name, found) if (found := {**inside, **outside}.get(signs[0])) else ("", text)
    name = sides[len(sides) // 2 if len(sides) == 3 else 0]
    if not _VARIABLE.fullmatch(name) or any(name in re.sub(r"\\infty", "", side) for side in sides if side != name):
        return "", text
    opening, closing = {"<": "(", "\\le": "["}.get(signs[0], ""), {"<": ")", "\\le": "]"}.get(signs[-1], "")
    if len(sides) == 3:
        return (name, f"{opening}{sides[0]},{sides[2]}{closing}") if opening and closing else ("", text)
    sign, bound = signs[0], sides[-1]
    if len(sides) != 2 or sign == "\\approx":
        return "", text
    below, above = f"(-\\infty,{bound}", f"{bound},\\infty)"
    sets = {"<": f"{below})", "\\le": f"{below}]", ">": f"({above}", "\\ge": f"[{above}", "\\ne": f"{below})\\cup({above}", "\\in": bound}
    return name, sets[sign]


def _overlap(above: str, below: str) -> str | None:
    """The interval from a half-line ``(a,\\infty)`` to a half-line ``(-\\infty,b)``."""
    lower, upper = re.fullmatch(r"([(\[].+,)\\infty\)", above), re.fullmatch(r"\(-\\infty,(.+[)\]])", below)
    return lower[1] + upper[1] if lower and upper and lower[1] != "(-\\infty," else None


def _right_sides(gold: str, answer: str) -> tuple[str, str]:
    """Both answers without the names that only one of them gives: ``x = 5`` is 5, ``5 + 3 = 8`` is 8."""
    (gold_sides, gold_signs), (sides, signs) = relation(gold), relation(answer)
    if set(signs) == {"="} and len(_split(answer, ",")) == 1 and (not gold_signs or len(signs) > 1):
        return gold, sides[-1] if not gold_signs else f"{sides[0]}={sides[-1]}"
    if gold_signs == ["="] and not signs and _VARIABLE.fullmatch(gold_sides[0]):
        return gold_sides[-1], answer
    return gold, answer


def take_apart(text: str) -> Parts | None:
    """The parts of a tuple, interval, set, union or list in normal form; ``None`` for an answer without parts."""
    for opening, closing, brackets in (("\\{", "\\}", "{}"), *((a, b, a + b) for a in "([" for b in ")]")):
        if text.startswith(opening) and text.endswith(closing) and _closes_at_end(text, len(opening)):
            items = _items(text[len(opening) : len(text) - len(closing)])
            return Parts(brackets, items) if len(items) > 1 or brackets == "{}" else None
    if len(sets := _split(text, "\\cup")) > 1:
        return Parts("\\cup", sets)
    items = _items(text)
    return Parts("", items) if len(items) > 1 else None


def _same_parts(gold: Parts, answer: Parts, leaf: Leaf) -> bool:
    if len(gold.items) != len(answer.items):
        return False
    kinds = {gold.brackets, answer.brackets}
    if kinds <= {"", "{}"} or kinds == {"\\cup"}:
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


def _items(text: str) -> tuple[str, ...]:
    """The items of a list; ``a \\pm b`` stands for two of them."""
    return tuple(branch for item in _split(text, ",") for branch in _branches(item))


def _branches(item: str) -> tuple[str, ...]:
    return (item.replace("\\pm", "+"), item.replace("\\pm", "-")) if item.count("\\pm") == 1 else (item,)


def _split(text: str, separator: str) -> tuple[str, ...]:
    """Cut at the separators outside all brackets; a semicolon is a comma between numbers that would else be one."""
    if separator == ",":
        text = text.replace(";", ",") if ";" in text else text
    depths = list(_depths(text))
    cuts = [match.span() for match in re.finditer(re.escape(separator), text) if depths[match.start()] == 0]
    return tuple(filter(None, (text[start:stop].strip() for (_, start), (stop, _) in pairwise([(0, 0), *cuts, (len(text), 0)]))))


def _closes_at_end(text: str, start: int) -> bool:
    """Whether the bracket that ends before ``start`` and opens the text is closed by its last character and not before."""
    closed = (i for i, depth in enumerate(_depths(text[start:]), start=start) if depth == -1)
    return next(closed, None) == len(text) - 1


def _depths(text: str) -> Iterator[int]:
    """Brackets open after each character."""
    return accumulate((char in "([{") - (char in ")]}") for char in text)
