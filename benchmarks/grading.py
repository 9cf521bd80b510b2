"""Grading against plain math-verify on every gold answer of the benchmarks: ``python -m benchmarks.grading [--every N] [--show]``.

Needs STIR_DATA_ROOT. Each mathematical or numerical gold answer is written anew in usual spellings of the same value (right answers), and
changed into other values (wrong answers): sign, off by one, scale, another base, a bound, another answer of the same benchmark. Plain
math-verify is ``verify(parse(gold), parse(text))`` with its own settings, on the same whole texts. Prints how
many answers each grader misjudges.
"""

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from math_verify import parse, verify
from tabulate import tabulate

from stir_core.records import AnswerKind
from stir_core.tasks.benchmarks import benchmark_problems
from stir_core.tasks.catalogue import SOURCES
from stir_core.tasks.grading import Grader

PER_GOLD = 3
"""Spellings, and changes, tried on each gold answer: the next ones in turn, so that each is tried on many."""
SAME: dict[str, tuple[str, Callable[[re.Match[str]], str]]] = {
    "as it is": (r".+", lambda m: m[0]),
    "in a phrase": (r"[^=]+", lambda m: f"<phrase>{m[0]}"),
    "after thinking": (r".+", lambda m: f"<thinking>{m[0]}"),
    "dfrac": (r"(.*?)\\frac(.*)", lambda m: f"{m[1]}\\dfrac{m[2]}"),
    "a/b": (r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}", lambda m: f"{m[1]}{m[2]}/{m[3]}"),
    "decimal": (r"(-?)\\[dt]?frac\{(\d+)\}\{([2458]|10|20|25)\}", lambda m: f"{m[1]}{int(m[2]) / int(m[3]):.6g}"),
    "spaces": (r"(?!.*\\(?:text|mbox|!)).*[,+=].*", lambda m: re.sub(r"(?<!\d)([,+=])|([,+=])(?!\d)", r" \1\2 ", m[0])),
    "thousands": (r"(\d{1,3})(\d{3})", lambda m: f"{m[1]},{m[2]}"),
    "thousands, LaTeX": (r"(\d{1,3})(\d{3})", lambda m: f"{m[1]}{{,}}{m[2]}"),
    "thousands, space": (r"(\d{2,3})(\d{3})", lambda m: f"{m[1]}\\,{m[2]}"),
    "unit": (r"-?\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\}", lambda m: f"{m[0]} \\text{{ cm}}"),
    "square unit": (r"\d*\\(?:pi|sqrt\{\d+\})|\d+", lambda m: f"{m[0]}\\text{{ square units}}"),
    "plain unit": (r"\d+", lambda m: f"{m[0]} km/h"),
    "dollar": (r"\d+(?:\.\d\d)?", lambda m: f"\\${m[0]}"),
    "euro": (r"\d+(?:\.\d\d)?", lambda m: f"{m[0]} €"),
    "degrees": (r"\d+", lambda m: f"{m[0]}^\\circ"),
    "no degrees": (r"(\d+)\^\{?\\circ\}?", lambda m: m[1]),
    "per cent": (r"(\d+)\\%", lambda m: f"{m[1]}%"),
    "no per cent": (r"(\d+)\\%", lambda m: m[1]),
    "named": (r"-?[\d.]+|-?\\frac\{\d+\}\{\d+\}|\d*\\sqrt\{\d+\}", lambda m: f"x = {m[0]}"),
    "unnamed": (r"[a-z]\s*=\s*(-?[\d.]+)", lambda m: m[1]),
    "point nought": (r"-?\d+", lambda m: f"{m[0]}.0"),
    "power of ten": (r"(\d)(0{3,6})", lambda m: f"{m[1]} \\times 10^{{{len(m[2])}}}"),
    "pi": (r"(\d*)\\pi", lambda m: f"{m[1]}pi"),
    "sqrt": (r"(\d*)\\sqrt\{(\d+)\}", lambda m: f"{m[1]}*sqrt({m[2]})" if m[1] else f"sqrt({m[2]})"),
    "real part last": (r"(-?\d+)\s*([+-])\s*(\d*)i", lambda m: f"{m[2].replace('+', '')}{m[3]}i {'+' if m[1][0] != '-' else ''}{m[1]}"),
    "complex decimals": (r"(-?\d+)\s*([+-])\s*(\d+)i", lambda m: f"{m[1]}.0 {m[2]} {m[3]}.0i"),
    "set": (r"(?!.*[(\[\\])([^,]+,[^,]+(?:,[^,]+)*)", lambda m: f"\\{{{m[1]}\\}}" if not re.fullmatch(r"\d{1,3}(,\d{3})+", m[0]) else m[0]),
    "inequality": (r"\(-\\infty,\s*(-?\d+)\)", lambda m: f"x < {m[1]}"),
    "inequality, closed": (r"\[(-?\d+),\s*\\infty\)", lambda m: f"x \\ge {m[1]}"),
    "member": (r"[(\[][^,]*,[^,]*\\infty\s*\)", lambda m: f"x \\in {m[0]}"),
    "left, right": (r"\(([^()]*)\)", lambda m: f"\\left({m[1]}\\right)"),
    "named tuple": (r"\((-?\d+),\s*(-?\d+)\)", lambda m: f"(x,y) = ({m[1]},{m[2]})"),
    "text": (r"\\text\{(.*)\}", lambda m: f"\\textbf{{{m[1]}}}"),
    "base, braces": (r"(\w+)_\{?(\d+)\}?", lambda m: f"{m[1]}_{{{m[2]}}}"),
    "bmatrix": (r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", lambda m: f"\\begin{{bmatrix}}{m[1]}\\end{{bmatrix}}"),
    "minus sign": (r"-(\d+)", lambda m: f"−{m[1]}"),
    "other side": (r"([a-z]) = (.*)", lambda m: f"{m[2]} = {m[1]}"),
    "boxes of a list": (r"(-?\d+),\s*(-?\d+)", lambda m: f"{m[1]}}}$ and $\\boxed{{{m[2]}" if len(m[2]) != 3 else m[0]),
}
"""Spelling -> (gold answers that have it, the spelling)."""
OTHER: dict[str, tuple[str, Callable[[re.Match[str]], str]]] = {
    "off by one": (r"(\D*)(\d+)(.*)", lambda m: f"{m[1]}{int(m[2]) + 1}{m[3]}"),
    "ten times": (r"(?!.*\.)(\D*)([1-9]\d*)((?:\D.*)?)", lambda m: f"{m[1]}{m[2]}0{m[3]}"),
    "minus": (r"(?=.*[1-9])[\d\\][^,=]*", lambda m: f"-{m[0]}" if not re.search(r"[-+<>(\[]|text", m[0]) else ""),
    "plus": (r"-([^-+,=]*)", lambda m: m[1]),
    "million": (r"[1-9]\d*", lambda m: f"{m[0]} \\text{{ million}}"),
    "and a half": (r"\d+", lambda m: f"{m[0]} \\text{{ and a half}}"),
    "or": (r"\d+", lambda m: f"{m[0]} \\text{{ or }} {int(m[0]) + 2}"),
    "at least": (r"\d+", lambda m: f"\\text{{at least }} {m[0]}"),
    "factorial": (r"[3-9]|[1-9]\d", lambda m: f"{m[0]}!"),
    "other base": (r"(\w+)_\{?(\d+)\}?", lambda m: f"{m[1]}_{{{int(m[2]) + 1}}}"),
    "small": (r"\d+", lambda m: f"{m[0]} + 10^{{-9}}"),
    "pi times": (r"[1-9]\d*", lambda m: f"{m[0]}\\pi"),
    "one more item": (r"(?!.*\\text).*\d", lambda m: f"{m[0]}, 77"),
    "reversed": (r"\(([^,()]+),([^,()]+)\)", lambda m: f"({m[2].strip()}, {m[1].strip()})" if m[1].strip() != m[2].strip() else ""),
    "closed": (r"\((.*\\infty)\)", lambda m: f"[{m[1]})" if "cup" not in m[0] and not m[1].startswith("-\\inf") else ""),
    "conjugate": (r"(.*\d\s*)\+(\s*\d*i)", lambda m: f"{m[1]}-{m[2]}"),
    "variable times": (r"[1-9]\d*", lambda m: f"{m[0]}x"),
}
"""Change -> (gold answers that it applies to, the other value); an empty text is no change."""


class Case(NamedTuple):
    """An answer to judge."""

    kind: AnswerKind
    gold: str
    text: str
    right: bool
    how: str


def golds() -> list[tuple[AnswerKind, str]]:
    """Every mathematical and numerical gold answer of the benchmarks, once."""
    found: dict[tuple[AnswerKind, str], None] = {}
    for name, splits in SOURCES.items():
        for split in splits:
            for problem in benchmark_problems(name, split):
                if problem.kind in ("math", "number"):
                    found[problem.kind, problem.answer] = None
    return list(found)


def cases(every: int = 1) -> Iterator[Case]:
    """Right and wrong answers of each gold answer; ``every`` takes one gold answer of so many."""
    answers = golds()
    turn: Counter[bool] = Counter()
    for at in range(0, len(answers), every):
        kind, gold = answers[at]
        for right, table in ((True, SAME), (False, OTHER)):
            fitting = {
                how: made for how, (pattern, make) in table.items() if (m := re.fullmatch(pattern, gold, re.DOTALL)) and (made := make(m))
            }
            other = next((text for _, text in answers[at + 1 :] if _digits(text) != _digits(gold) and _simple(text) and _simple(gold)), "")
            if not right and other:
                fitting["another answer"] = other
            hows = list(fitting)
            for how in (hows[(turn[right] + i) % len(hows)] for i in range(min(PER_GOLD, len(hows)))):
                yield Case(kind, gold, _stated(kind, fitting[how]), right, how)
            turn[right] += PER_GOLD


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _simple(text: str) -> bool:
    return re.fullmatch(r"-?\d+|.*\\(?:sqrt|pi|frac|infty).*|.*[a-z].*", text) is not None and "." not in text and "%" not in text


def _stated(kind: AnswerKind, made: str) -> str:
    thinking = "<think>Could it be \\boxed{1234}? No, that is wrong.</think>\n\n" if made.startswith("<thinking>") else ""
    value = re.sub(r"^<\w+>", "", made)
    if made.startswith("<phrase>"):
        return f"We add them up. The answer is ${value}$."
    return (
        f"{thinking}We add them up. The answer is $\\boxed{{{value}}}$." if kind == "math" or thinking else f"We add them up.\n#### {value}"
    )


def measure(every: int = 1, show: bool = False) -> dict[str, Any]:
    """Errors of both graders by spelling and change: (misjudged, tried)."""
    errors: dict[str, dict[str, list[int]]] = {"stir": defaultdict(lambda: [0, 0]), "math-verify": defaultdict(lambda: [0, 0])}
    with Grader() as grader:
        grader.grade("math", "x+1", "\\boxed{1+x}")
        judges: dict[str, Callable[[Case], bool]] = {"stir": lambda case: grader.grade(*case[:3]).correct, "math-verify": _plain}
        for case in cases(every):
            for name, judge in judges.items():
                wrong = judge(case) != case.right
                row = errors[name][f"{'right' if case.right else 'wrong'}: {case.how}"]
                row[0], row[1] = row[0] + wrong, row[1] + 1
                if wrong and show:
                    print(name, *case, sep=" | ", file=sys.stderr, flush=True)
    totals = {
        name: {
            side: [sum(column) for column in zip(*(row for how, row in rows.items() if how.startswith(side)), strict=True)]
            for side in ("right", "wrong")
        }
        for name, rows in errors.items()
    }
    return {"errors": {name: dict(rows) for name, rows in errors.items()}, "totals": totals}


def _plain(case: Case) -> bool:
    """Plain math-verify's verdict; the gold answer stands between the delimiters that it looks for."""
    return verify(parse(f"${case.gold}$"), parse(case.text))


def main(argv: list[str] | None = None) -> int:
    """Print both graders' errors; exit code 1 unless there are fewer of both kinds than math-verify's."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.grading", description=__doc__)
    options.add_argument("--every", type=int, default=1, metavar="N", help="take one gold answer of so many")
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    options.add_argument("--show", action="store_true", help="print every misjudged answer to standard error")
    arguments = options.parse_args(argv)
    found = measure(arguments.every, arguments.show)
    ours, theirs = found["totals"]["stir"], found["totals"]["math-verify"]
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        rows = [
            [how, ours_row[1], ours_row[0], found["errors"]["math-verify"][how][0]] for how, ours_row in found["errors"]["stir"].items()
        ]
        totals = [
            [
                "right answers called wrong" if side == "right" else "wrong answers called right",
                ours[side][1],
                ours[side][0],
                theirs[side][0],
            ]
            for side in ("right", "wrong")
        ]
        print(tabulate(sorted(rows) + totals, headers=["answers", "tried", "stir", "math-verify"], tablefmt="github"))
    return 0 if all(ours[side][0] < theirs[side][0] for side in ("right", "wrong")) else 1


if __name__ == "__main__":
    sys.exit(main())
