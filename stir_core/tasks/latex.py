"""Answers as strings: one canonical spelling, and exact values of plain numbers. Pure text work, nothing is evaluated.

:func:`normalise` removes markup that does not change an answer: spacing commands, ``\\left``, currency and per cent signs, units in
``\\text``. Thousands marks stay, for :func:`plain_number` to read. Answers with equal normal forms are equal; others may still be equal
(``x+1`` and ``1+x``), which :mod:`stir_core.tasks.structure` and then math-verify decide.
"""

import re
from fractions import Fraction

_UNICODE = str.maketrans(
    {"−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "π": "\\pi ", "∞": "\\infty ", "°": "", "²": "^2", "³": "^3"}
    | {"≤": "\\le ", "≥": "\\ge ", "∪": "\\cup ", "√": "\\sqrt ", "\u00a0": " ", "½": "\\frac{1}{2}", "′": "'", "\u202f": " "}
)
_TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}"
_UNIT = r"\\(?:(?:text|textrm|mbox)\s*\{[^{}]*\}|mathrm\s*\{[^{}]{2,}\})"
"""A unit after a number. A single upright letter stays, since it may be ``i`` or ``e``."""
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\{1,3}(?:boxed|fbox|framebox)(?![a-zA-Z])", ""),
        (r"\\(?:left|right|[bB]ig[glr]*|displaystyle|limits)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:q?quad|hspace\{[^{}]*\})|~", " "),
        (r"\{\s*,\s*\}", ","),
        (r"(?<!\\)\\[!,;: ]", ""),  # spacing commands; a row break before a space is not one
        (r"(?<!\\)\\?\$", ""),
        (r"\\?%", ""),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![a-zA-Z])", ""),
        (r"(?<=[\d})\s])\s*" + _UNIT + r"(?:\s*\^\s*\{?\d\}?)?\s*\.?\s*$", ""),
        (r",?\s*\\(?:text|mbox)\s*\{\s*,?\s*(?:and|or)\s*\}\s*", ","),
        (_TEXT, r"\1"),
        (r",?\s+(?:and|or)\s+", ","),
        (r"\\neq(?![a-zA-Z])", r"\\ne"),
        (r"\\leq(?![a-zA-Z])", r"\\le"),
        (r"\\geq(?![a-zA-Z])", r"\\ge"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    )
)
"""Applied in this order: a unit must go before its ``\\text`` does."""
_SPACE = re.compile(r"(\\[A-Za-z]+)?\s+(?=(.)?)", re.DOTALL)
_INT = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = re.compile(rf"([-+]?)({_INT}?)(\.\d+)?\.?")
_FRACTION = re.compile(rf"([-+]?)({_INT}?) ?(?:\\frac\{{([-+]?)({_INT})\}}\{{({_INT})\}}|(?<!\d)({_INT})/({_INT}))")
_MIXED = re.compile(rf"([-+]?)({_INT}) ({_INT})/({_INT})")


def normalise(text: str) -> str:
    """Canonical spelling of an answer: the same for answers that differ only in typography."""
    text = text.translate(_UNICODE)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _SPACE.sub(_keep_needed_space, text.strip()).strip().rstrip(".,;")
    alone = re.fullmatch(r"\(([A-Za-z]|-?\d+(?:\.\d+)?)\)", text)
    return alone[1] if alone else text


def _keep_needed_space(match: re.Match[str]) -> str:
    """Keep a space between a control word and a letter (``\\pi r``), and between two digits (``2 1/2``)."""
    command, following = match[1] or "", match[2] or ""
    before = match.string[match.start() - 1] if match.start() else ""
    needed = following.isalpha() if command else before.isdigit() and following.isdigit()
    return command + (" " if needed else "")


def plain_number(text: str) -> Fraction | None:
    """Exact value of a number in normal form; ``None`` for anything else.

    Reads integers with or without thousands marks (``10,080``, never the pair ``1,2``), decimals, fractions ``a/b`` and
    ``\\frac{a}{b}``, and mixed numbers. Evaluates nothing: ``2+3`` is not a plain number.
    """
    if match := _DECIMAL.fullmatch(text):
        sign, whole, part = match.groups(default="")
        return Fraction(f"{sign}{whole.replace(',', '') or '0'}{part}") if whole or part else None
    if match := _MIXED.fullmatch(text):
        return _value(match[1], match[2], match[3], match[4])
    if match := _FRACTION.fullmatch(text):
        sign, whole, inner, top, bottom, plain_top, plain_bottom = match.groups(default="")
        if whole and (inner or plain_top):
            return None
        return _value("-" if (sign == "-") != (inner == "-") else "", whole, top or plain_top, bottom or plain_bottom)
    return None


def _value(sign: str, whole: str, top: str, bottom: str) -> Fraction | None:
    numerator, denominator = int(top.replace(",", "")), int(bottom.replace(",", ""))
    if denominator == 0:
        return None
    value = int(whole.replace(",", "") or "0") + Fraction(numerator, denominator)
    return -value if sign == "-" else value


def is_prose(text: str) -> bool:
    """Whether an answer is a sentence rather than an expression: three or more plain words outside LaTeX commands."""
    bare = re.sub(r"\\(?:begin|end|operatorname|text|mathrm)\s*\{[^{}]*\}", " ", text)
    return len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", bare)) >= 3
