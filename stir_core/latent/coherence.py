"""The coherence of a chain of decoded steps: as ATP-Latent's code rewards it, and strictly.

The published rule compares texts: a step counts if what stands behind its ``=`` occurs anywhere in a later step, or, for the last step, in
the answer. So a step that cannot be parsed always counts (its result is the empty text), ``3`` occurs in ``13*2``, no decoded step at all
scores 1, and whether ``a*b=r`` is true is never asked.
"""

import ast
import operator
import re
from collections.abc import Collection, Sequence
from fractions import Fraction
from typing import NamedTuple

_RESULT = re.compile(r"=(.*?)>>", re.DOTALL)
_EQUATION = re.compile(r"<<([-+*/().\d\s]+)=\s*(-?\d+(?:\.\d+)?)\s*>>")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_MOST_DIGITS = 1000
"""Longer numbers are none: Python refuses to read one of more than 4,300 digits, and an answer may write any."""
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class Equation(NamedTuple):
    """A decoded step that could be parsed."""

    operands: tuple[Fraction, ...]
    result: Fraction
    true: bool


def published_coherence(steps: Sequence[str], answer: str) -> float:
    """The reward of the published code (``compute_explain_logprob``), from 0 to 1.

    Args:
        steps: decoded text of each step.
        answer: the whole answer as text, e.g. ``"### 18"``.
    """
    hits = published_hits(steps, answer)
    return sum(hits) / len(hits) if hits else 1.0


def published_hits(steps: Sequence[str], answer: str) -> list[bool]:
    """Which steps count for :func:`published_coherence`."""
    results = [match[1].strip() if (match := _RESULT.search(step)) else "" for step in steps]
    return [any(result in later for later in steps[i + 1 :] or [answer]) for i, result in enumerate(results)]


def strict_coherence(steps: Sequence[str], answer: str, given: Collection[int | Fraction], modulus: int | None = None) -> float:
    """The share of steps that parse, are true, use given numbers or earlier results, and whose result is used later or is the answer.

    Args:
        steps: decoded text of each step.
        answer: the answer as text; its last number counts.
        given: the numbers of the question.
        modulus: of the arithmetic, if any.
    """
    hits = strict_hits(steps, answer, given, modulus)
    return sum(hits) / len(hits) if hits else 0.0


def strict_hits(steps: Sequence[str], answer: str, given: Collection[int | Fraction], modulus: int | None = None) -> list[bool]:
    """Which steps count for :func:`strict_coherence`."""
    equations = [equation_of(step, modulus) for step in steps]
    numbers = _NUMBER.findall(answer)
    final = number_of(numbers[-1]) if numbers else None
    known = {Fraction(number) for number in given}
    hits: list[bool] = []
    for i, equation in enumerate(equations):
        if equation is None:
            hits.append(False)
            continue
        used = any(later is not None and equation.result in later.operands for later in equations[i + 1 :])
        hits.append(equation.true and known.issuperset(equation.operands) and (used or equation.result == final))
        known.add(equation.result)
    return hits


def number_of(text: str) -> Fraction | None:
    """A number that is written in digits; ``None``: it has more than a thousand."""
    return Fraction(text) if len(text) <= _MOST_DIGITS else None


def equation_of(step: str, modulus: int | None = None) -> Equation | None:
    """A decoded step such as ``<<16-3-4=9>>``; ``None``: it is not one.

    A result with decimals is true if the left side rounds to it.
    """
    match = _EQUATION.fullmatch(step.strip())
    if match is None:
        return None
    try:
        tree = ast.parse(match[1].strip(), mode="eval").body
        operands: list[Fraction] = []
        difference = _value(tree, operands) - Fraction(match[2])
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    decimals = len(match[2].partition(".")[2])
    exact = difference == 0 if modulus is None else difference % modulus == 0
    true = exact or (bool(decimals) and abs(difference) <= Fraction(1, 2 * 10**decimals))
    return Equation(tuple(operands), Fraction(match[2]), true)


def _value(node: ast.expr, operands: list[Fraction]) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        operands.append(Fraction(str(node.value)))
        return operands[-1]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left = _value(node.left, operands)
        return _OPERATORS[type(node.op)](left, _value(node.right, operands))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, operands)
    raise ValueError("not an equation of numbers")
