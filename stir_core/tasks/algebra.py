"""Equality of expressions without parts: parsed by latex2sympy, compared exactly. Runs in the checker process only; it imports SymPy.

The content of an answer is parsed, never executed. Decimals stand for exactly their value. Two expressions are equal when their
difference vanishes: exactly for rational numbers, else to :data:`DIGITS` digits, at several points where there are variables.
"""

import re
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from sympy.core.evalf import PrecisionExhausted

from stir_core.tasks.latex import plain_number
from stir_core.tasks.structure import mirrored, relation

DIGITS = 60
"""Digits to which a difference must vanish, where it is not rational."""
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_POSITIVE = 3
"""Points at which all variables are positive; at as many others as there are variables, one is negative (``x`` is not ``|x|``)."""
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)


def same_expression(gold: str, answer: str) -> bool:
    """Whether two expressions in normal form are equal: numbers, terms, matrices, equations and inequalities.

    What cannot be parsed equals nothing.
    """
    (gold_sides, gold_signs), (sides, signs) = relation(gold), relation(answer)
    if len(signs) != len(gold_signs) or "\\in" in signs or "\\approx" in signs:
        return False
    try:
        wanted, given = [_parse(side) for side in gold_sides], [_parse(side) for side in sides]
        if None in wanted or None in given:
            return False
        if not signs:
            return _equal(wanted[0], given[0])
        _, turned_signs = mirrored(sides, signs)
        if signs == gold_signs and all(map(_equal, wanted, given)):
            return True
        if turned_signs == gold_signs and all(map(_equal, wanted, reversed(given))):
            return True
        return len(signs) == 1 and _same_relation(wanted, gold_signs[0], given, signs[0], turned_signs[0])
    except (ArithmeticError, AttributeError, IndexError, NotImplementedError, RecursionError, TypeError, ValueError):
        return False  # what SymPy raises on terms that it cannot compute


def _parse(text: str) -> Any:
    """A text as SymPy expression with exact numbers, ``i`` as the imaginary unit; ``None`` where it is no expression."""
    if (value := plain_number(text)) is not None:
        return sympy.Rational(value.numerator, value.denominator)
    text = re.sub(r"(?<![\d.])(\d+)\\frac\{(\d+)\}\{(\d+)\}", r"(\1+\\frac{\2}{\3})", text)  # a mixed number
    text = re.sub(r"(?<=[\d)])(?=\(|\\(?:binom|lfloor|lceil))|(?<=\))(?=\d)", r"\\cdot ", text)  # the parser adds the numbers in (3)(4)
    if re.search(r"\d_", text):  # the parser forgets the base
        return None
    try:
        parsed: Any = latex2sympy(text, normalization_config=None, conversion_config=_CONVERSION)
    except Exception:  # the parser raises no narrower ones
        return None
    if not isinstance(parsed, sympy.Basic | sympy.MatrixBase):
        return None
    exact: Any = parsed.replace(lambda part: isinstance(part, sympy.Float), lambda part: sympy.Rational(str(part)))
    exact = exact.subs(sympy.Symbol("i"), sympy.I).doit()
    return None if exact.has(sympy.nan, sympy.zoo) else exact


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, sympy.MatrixBase) or isinstance(other, sympy.MatrixBase):
        return (
            isinstance(one, sympy.MatrixBase)
            and isinstance(other, sympy.MatrixBase)
            and one.shape == other.shape
            and all(map(_equal, one.flat(), other.flat()))
        )
    if one == other:
        return True
    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr)) or one.is_infinite or other.is_infinite:
        return False
    return _vanishes(one - other)


def _same_relation(wanted: list[Any], gold_sign: str, given: list[Any], sign: str, turned_sign: str) -> bool:
    """Whether two relations are the same up to a factor: ``y = 2x + 1`` and ``2x - y + 1 = 0``."""
    left, right = wanted[0] - wanted[1], given[0] - given[1]
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not symbols or _vanishes(right):
        return False
    factor = (left / right).subs(_point(symbols, 0))
    if not factor.is_real or factor.is_zero or not _vanishes(left - factor * right):
        return False
    return gold_sign == (sign if gold_sign in ("=", "\\ne") or factor.is_positive else turned_sign)


def _vanishes(difference: Any) -> bool:
    """Whether an expression is zero: exactly where it is rational, else in figures, at several points where it has variables."""
    if difference.is_Rational:
        return bool(difference == 0)
    symbols = sorted(difference.free_symbols, key=str)
    points = [_point(symbols, i) for i in range(_POSITIVE)] + [_point(symbols, 0, negative=i) for i in range(len(symbols))]
    compared = 0
    for i, point in enumerate(points if symbols else [{}]):
        value = difference.subs(point)
        if value.has(sympy.nan, sympy.zoo, sympy.oo):
            continue
        try:
            number = value.evalf(15, maxn=DIGITS, strict=True)
        except PrecisionExhausted:
            compared += 1
            continue
        if i >= _POSITIVE and number.is_real is False:
            continue  # outside the domain of a root or logarithm
        if number != 0:
            return False
        compared += 1
    return compared > 0


def _point(symbols: list[Any], shift: int, negative: int | None = None) -> dict[Any, Any]:
    """A rational value for each variable; ``negative`` is the index of the one that is below zero."""
    return {
        symbol: (-1 if i == negative else 1) * sympy.Rational(_PRIMES[(i + shift) % 10], _PRIMES[(3 * i + shift + 1) % 10] + i // 10)
        for i, symbol in enumerate(symbols)
    }
