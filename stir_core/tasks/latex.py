"""Answers as strings: one canonical spelling, and exact values of plain numbers. Pure text work, nothing is evaluated.

:func:`normalise` removes markup that does not change an answer: spacing commands, ``\\left``, currency and per cent signs, units.
Thousands marks stay, for :func:`plain_number` to read. Answers with equal normal forms are equal; others may still be equal (``x+1`` and
``1+x``), which :mod:`stir_core.tasks.structure` and :mod:`stir_core.tasks.algebra` decide.
"""

import re
import unicodedata
from fractions import Fraction

from stir_core.tasks.units import CURRENCY, is_unit, spell_out, unit_of

_UNICODE = str.maketrans(
    dict(zip("−–‒′⁄∕÷", "---'///", strict=True))
    | {"×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "∞": "\\infty ", "√": "\\sqrt ", "∅": "\\emptyset ", "∪": "\\cup ", "∈": "\\in "}
    | {"≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "±": "\\pm "}
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", "")
)
_TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}"
_BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_PARENTHESES = r"\(((?:[^()]|\([^()]*\))*)\)"
_POWER = re.compile(r"\s*\^\s*(?:\{\s*-?\d\s*\}|\d)")
_WORD = rf"(?:{_TEXT.replace('([^{}]*)', '[^{}]*')}|(?<![A-Za-z\\])[A-Za-z]+(?![A-Za-z]))"
_UNIT = re.compile(rf"(?:(?:\s|\\cdot|[/*.-])*{_WORD}\.?(?:{_POWER.pattern})?)+\s*(?=$|[,;)\]]|\\\}})")
"""Words that may be a unit, behind the value or behind an item of a list."""
_DEGREES = r"(?:\s*\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![a-zA-Z])|°)"
_OPEN = r"\\(?:text|mathrm)\s*\{\s*"
_AND = r"(?:,?\s*\\(?:text|mbox)\s*\{\s*and\s*\}\s*|,?\s+and\s+|\s*\\(?:land|wedge)(?![a-zA-Z])\s*)"
_COMPARED = r"(?:[<>]|\\(?:[lg]t|[lg]e(?:q|qslant)?)(?![a-zA-Z]))"
_BASES = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt|pi"
_Rewrites = tuple[tuple[re.Pattern[str], str], ...]


def _rewrites(*pairs: tuple[str, str]) -> _Rewrites:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_MARKUP = _rewrites(
    (r"\\{1,3}(?:boxed|fbox|framebox)(?![a-zA-Z])", ""),
    (r"\\(?:left|right|[bB]ig[glr]*|displaystyle|limits)(?![a-zA-Z])", ""),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\underline(?![a-zA-Z])|\\(?:text)?color\s*\{[^{}]*\}|\\(?:checkmark|blacksquare|square)(?![a-zA-Z])", ""),
    (rf"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^\{{?-?\d\}}?)?)\s*[({{]?\s*([\d.]+){_DEGREES}\s*[)}}]?", r"\1(\2\\cdot\\frac{\\pi}{180})"),
    (rf"(?<=\d)\s*(?:\\[,; ]\s*)*(?:{_OPEN}([kM]?)\s*)?\\Omega(?![a-zA-Z])\s*\}}?\s*$", r" \1ohm"),
    (rf"(?<=\d)\s*(?:\\[,; ]\s*)*(?:{_OPEN})?\\mu\s*(?:{_OPEN})?([mgsAVWFLl])\s*\}}?\s*$", r" u\1"),
    (rf"\\frac\s*\{{\s*([\d.]+)\s*(?:\\[,; ])*({_OPEN}[^{{}}]*\}})\s*\}}\s*\{{\s*([\d.]+)\s*\}}", r"\\frac{\1}{\3} \2"),  # half of 5 km
    (r"\\frac\s*\{\s*(\\(?:text|mathrm)\s*\{[^{}]*\})\s*\}\s*\{\s*(\\(?:text|mathrm)\s*\{[^{}]*\})\s*\}", r"\1/\2"),  # km over h
    (r"(?i)(?:\\text\s*\{)?\s*\ball real(?:s| numbers)\b\s*\}?", r"(-\\infty ,\\infty )"),
    (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
    (r"\s*\\(?:lor|vee)(?![a-zA-Z])\s*", "; "),
    (r"\{\s*,\s*\}", ","),
    (r"\s*\\!\s*", ""),
    (r"\.\.\.", r"\\ldots "),
    (r"\\(?:q?quad|hspace\{[^{}]*\})|~|(?<!\\)\\[,;: ]", " "),  # a row break before a space is not a spacing command
    (r"\\?%|\s*\b(?:percent|per cent|pct)\b", " "),
    (rf"{_DEGREES}\s*(?:\\(?:text|mathrm)\s*\{{\s*[CF]\s*\}}|[CF](?![A-Za-z]))?", ""),
    (r"^\s*(?:\\approx|\\sim|=|(?:\\text\s*\{\s*)?(?:approximately|approx\.|about|around|roughly|exactly)(?:\s*\}|\s))\s*", ""),
    (rf"({_COMPARED}[^,;]*?){_AND}(?=[^,;]*{_COMPARED})", r"\1\\land "),
    (r",?\s*\\(?:text|mbox)\s*\{\s*,?\s*(?:and|or)\s*\}\s*|,?\s+(?:and|or)\s+(?![a-z]{2}|an? )", "; "),
    (r"\\(?:text|mbox|mathrm)\s*\{([^{}]*\b(?:negative|minus|half|quarter|dozen|hundred|thousand|[mbt]r?illion)\b[^{}]*)\}", r" \1 "),
    *((rf"(?i)\b(base[\s-]*\}}?\s*){word}\b", rf"\g<1>{base}") for base, word in enumerate(_BASES.split(), 2)),
    (r"\s*\(?\s*(?:\\(?:text|mbox)\s*\{\s*\(?\s*)?\b(?:in\s+)?base[\s-]*\}?\s*\$?(\d+)\s*\)?\s*\}?\s*\)?\s*$", r"_{\1}"),
)
"""Markup that does not change an answer; units go after it."""
_NOTATION = _rewrites(
    (_TEXT, r" \1 "),
    (r"^\s*\\\{\s*([a-z])\s*(?:\\mid|\\colon|[|:])\s*(?=\1|.*\1)(.*)\\\}\s*$", r"\2"),
    (r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty "),
    (rf"(?<![A-Za-z\\])({_FUNCTIONS})(?![A-Za-z])", r"\\\1 "),
    (r"\*\*", "^"),
    (r"<\s*=|\\le(?:q|qslant)?(?![a-zA-Z])", r"\\le "),
    (r">\s*=|\\ge(?:q|qslant)?(?![a-zA-Z])", r"\\ge "),
    (r"(?<=[A-Za-z\s])!=|\\neq?(?![a-zA-Z])", r"\\ne "),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\(?:[lr]?vert|mid)(?![a-zA-Z])", "|"),
    (r"\\lbrace(?![a-zA-Z])", r"\\{"),
    (r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\\langle(?![a-zA-Z])", "("),
    (r"\\rangle(?![a-zA-Z])", ")"),
    (r"\\(?:mathbb|mathbf|bf)\s*\{?\s*R\s*\}?(?!\s*\^)|\\R(?![a-zA-Z])", r"(-\\infty ,\\infty )"),
    (r"\\(?:varnothing|\{\s*\\\})", r"\\emptyset "),
    (rf"\\sqrt\s*{_PARENTHESES}", r"\\sqrt{\1}"),
    (r"\\sqrt\s*(\\pi|\w)", r"\\sqrt{\1}"),
    (rf"\^\s*{_PARENTHESES}", r"^{\1}"),
    (r"\\frac\s*(\\pi|\w)", r"\\frac{\1}"),
    (rf"(\\frac\s*{_BRACED})\s*(\\pi|\w)", r"\1{\2}"),
    (r"(?<=\d)\s*[xX*]\s*10\s*\^", r"\\times 10^"),
    (r"(?<=[\w)])_\s*(\w)", r"_{\1}"),
    (r"(?<=\d),\s+(?=\d{3}(?!\d))", ";"),  # a list, not a thousands mark
    (r";\s*(?!\d{3}(?!\d))", ","),
)
"""One way to write what LaTeX and plain text write in several."""
_SPACE = re.compile(r"(\\[A-Za-z]+)?\s+(?=(.)?)", re.DOTALL)
_INT = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = re.compile(rf"([-+]?)({_INT}?|\d{{1,3}}(?: \d{{3}})+)(\.\d+)?\.?")
_POWER_OF_TEN = re.compile(
    r"(?:([-+]?\d*\.?\d+)(?:\\times ?|\\cdot ?|[eE](?=[-+]?\d)))?(?:(?<![eE])10\^(?:\{([-+]?\d{1,3})\}|(\d))|(?<=[eE])([-+]?\d{1,3}))"
)
_REPEATING = re.compile(
    r"([-+]?)(\d*)\.(\d*?)(?:\\(?:overline|bar)\{(\d+)\}|\((\d+)\)|\\dot\{?(\d)\}?(?:(\d*)\\dot\{?(\d)\}?)?|(\d+?)\9+\\[lc]?dots)"
)
_FRACTION = re.compile(rf"([-+]?)({_INT}?) ?(?:\\frac\{{([-+]?)({_INT})\}}\{{({_INT})\}}|(?<!\d)({_INT})/({_INT}))")
_MIXED = re.compile(rf"([-+]?)({_INT}) ({_INT})/({_INT})")
_BASED = re.compile(r"\(?(-?(?:[\dA-F]|[a-f](?=[\da-f]))[\dA-Fa-f]*(?:\.[\dA-Fa-f]+)?)\)?_\{(\d+)\}")


def ascii_spelling(text: str) -> str:
    """A text with ASCII or LaTeX for Unicode's digits, fractions, spaces, superscripts, signs and Greek letters."""
    if text.isascii():
        return text
    text = re.sub(r"[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda run: f"^{{{unicodedata.normalize('NFKC', run[0])}}}", text)
    text = re.sub(r"[₀-₉]+", lambda run: f"_{{{unicodedata.normalize('NFKC', run[0])}}}", text)
    text = re.sub(r"(?<=\d)\s*(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub(r"(?<=\d)\s?[µμ](?=[mgsAVWFLl]\b)", " u", re.sub(r"(?<=\d)\s?([kM]?)[ΩΩ](?!\w)", r" \1ohm", text))
    text = re.sub(r"[Α-ΡΣ-ω]", lambda letter: f"\\{_greek(letter[0])} ", text)
    return unicodedata.normalize("NFKC", text.replace("…", "...").replace("ℝ", "\\mathbb{R}")).translate(_UNICODE)


def _greek(letter: str) -> str:
    name = unicodedata.name(letter).rpartition(" ")[2].replace("LAMDA", "LAMBDA")
    return name.title() if letter.isupper() else name.lower()


def normalise(text: str) -> str:
    """Canonical spelling of an answer: the same for answers that differ only in typography."""
    text, _ = _without_unit(text)
    for pattern, replacement in _NOTATION:
        text = pattern.sub(replacement, text)
    text = _SPACE.sub(_keep_needed_space, text.strip()).strip().rstrip(".,;")
    alone = re.fullmatch(r"\(([A-Za-z]|-?\d+(?:\.\d+)?)\)|\{([^{}]*)\}", text)
    return alone[1] or alone[2] if alone else text


def _without_unit(text: str) -> tuple[str, str]:
    """An answer without markup, currency and units, and those words and signs."""
    text = ascii_spelling(text)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    signs = "".join(CURRENCY.findall(text))
    text = spell_out(CURRENCY.sub("", text))
    units: list[str] = []

    def drop(match: re.Match[str]) -> str:
        before, words = text[: match.start()], re.sub(_TEXT, r" \1 ", _POWER.sub(" ", match[0].replace("\\cdot", " ")))
        bare = re.match(r"\s*[A-Za-z]", match[0])
        beside_value = re.search(r"(?:[\d})\]]|\\pi)\s*$" if bare else r"\d|\\[a-z]|\b[A-Za-z]\b", re.sub(_TEXT, "", before))
        if not beside_value or (bare and re.fullmatch(r"\W*\w\W*", words)) or not is_unit(words):
            return match[0]
        units.append(words)
        return ""

    return _UNIT.sub(drop, text), " ".join([signs, *units])


def other_unit(gold: str, answer: str) -> bool:
    """Whether two answers name known units that differ: minutes and hours."""
    units = [unit_of(_without_unit(side)[1]) for side in (gold, answer)]
    return all(units) and units[0] != units[1]


def _keep_needed_space(match: re.Match[str]) -> str:
    """Keep a space between a control word and a letter (``\\pi r``), and between two digits (``2 1/2``)."""
    command, following = match[1] or "", match[2] or ""
    before = match.string[match.start() - 1] if match.start() else ""
    needed = following.isalpha() if command else before.isdigit() and following.isdigit()
    return command + (" " if needed else "")


def plain_number(text: str) -> Fraction | None:
    """Exact value of a number in normal form; ``None`` for anything else.

    Reads integers with or without thousands marks (``10,080``, never the pair ``1,2``), decimals, also repeating ones
    (``0.\\overline{3}``, ``0.333...``) and with a power of ten, fractions ``a/b`` and ``\\frac{a}{b}``, and mixed numbers. Evaluates
    nothing: ``2+3`` is not a plain number.
    """
    if match := _DECIMAL.fullmatch(text):
        sign, whole, part = match.groups(default="")
        return Fraction(f"{sign}{re.sub('[, ]', '', whole) or '0'}{part}") if whole or part else None
    if match := _POWER_OF_TEN.fullmatch(text):
        return Fraction(match[1] or "1") * Fraction(10) ** int(match[2] or match[3] or match[4])
    if match := _REPEATING.fullmatch(text):
        sign, whole, start = match.groups(default="")[:3]
        block = next(filter(None, (match[4], match[5], match[9])), None) or "".join(filter(None, match.group(6, 7, 8)))
        repeated = Fraction(int(block), 10 ** len(block) - 1) / 10 ** len(start)
        return (-1 if sign == "-" else 1) * (Fraction(f"{whole or 0}.{start or 0}") + repeated)
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


def based_number(text: str) -> tuple[str, int] | None:
    """Digits and base of a number in normal form that names its base, ``4210_{5}``."""
    match = _BASED.fullmatch(text)
    return (match[1].lower(), int(match[2])) if match else None


def plain_words(text: str) -> str:
    """The words of an answer: without commands, their texts kept, and without the names of functions."""
    text = re.sub(_TEXT, r" \1 ", text)
    return re.sub(rf"\\[A-Za-z]+|(?<![A-Za-z])(?:{_FUNCTIONS}|or)(?![A-Za-z])|\d", " ", text)


def is_prose(text: str) -> bool:
    """Whether an answer is a sentence rather than an expression: three or more plain words outside LaTeX commands."""
    bare = re.sub(r"\\(?:begin|end|operatorname|text|mathrm)\s*\{[^{}]*\}", " ", text)
    return len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", bare)) >= 3
