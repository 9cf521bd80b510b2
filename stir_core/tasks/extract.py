"""Finding the final answer in a generated text. Nothing is compared or evaluated here.

Only the final part is read, what follows the thinking (:mod:`stir_core.tasks.thinking`); an unclosed thinking block has no answer.
An answer counts when it is *stated*: the last balanced ``\\boxed{...}``, else the last ``#### ...``, else the last phrase like "the answer
is ...", else a text that is nothing but an answer. A number at the end of a text is not an answer by itself, and neither is an unclosed
box or a placeholder copied from the prompt (``#### <answer>``, ``\\boxed{}``).
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stir_core.records import AnswerKind
from stir_core.tasks.latex import ascii_spelling, is_prose
from stir_core.tasks.thinking import split_thinking
from stir_core.tasks.units import CHANGES, CURRENCY, alters, is_unit, spell_out

_BRACES = re.compile(
    r"(?P<open>\\{1,3}(?:boxed|fbox|framebox)\s{0,3}\{)|(?:\\{1,3}boxed\s{0,3}(?P<bare>-?\d[\d.,/]*|(?<=\s)[A-Z](?![A-Za-z])))|\\\\|\\[{}]|(?P<brace>\{)|(?P<close>\})"
)
"""Boxes with a brace, boxes of a number or letter without one (``\\boxed 5``), and every other brace, for counting; not escaped ones."""
_BETWEEN_BOXES = re.compile(r"[ $]*(?:\\[)\]] ?)?(?:,|;|,? ?\b(?:and|or)\b) ?(?:\\[(\[])?[ $]*(?:[A-Za-z]\w? ?= ?)?")
"""Text between two boxes that hold items of one list. Its spaces are single ones: longer runs would make the search cubic."""
_HASHES = re.compile(r"(?<!#)#{4}(?!#)[ \t]*\n?[ \t]*((?:(?!####)[^\n])*)")
"""Exactly four hashes, and the rest of that line or, where it is empty, the next line."""
_PHRASE = re.compile(
    r"\b(?:answers?|(?:correct|right|best)\s(?:option|choice))\b(?:\s(?:to|for)\s(?:the|this)\s(?:question|problem))?"
    r"[\s*_]{0,4}(?:\b(?:is|are|would be|will be|should be)\b|[:=])",
    re.IGNORECASE,
)
"""Announcements of an answer: "the answer is", "answer to the question:", "the correct option is"."""
_LEAD = " \t\n*_:"
"""Characters allowed between the announcement and the answer."""
_SEGMENT = r"(?:\$\$[^$]+\$\$|\$(?!\s)(?:\\.|[^$\\\n])+?(?<!\s)\$(?!\d)|\\\(.+?\\\)|\\\[.+?\\\])"
"""One formula between maths delimiters."""
_MATHS = re.compile(rf"{_SEGMENT}(?:,?\s*(?:,|and|or)\s*{_SEGMENT})*", re.DOTALL)
"""A formula, or several in a list."""
_SENTENCE_END = re.compile(r"[.;!?](?=\s|$)|(?<!times),?\s+(?:because|since|as|so|which|where|when|but)\b")
"""Where a stated answer ends and an explanation begins."""
_PLACEHOLDERS = {"", "answer", "letter", "yes or no", "your answer", "final answer", "the answer", "...", "\\ldots", "\\dots"}
_HEADING = re.compile(r"(?:step|part|case|solution|conclusion|explanation|verification|problem|question|note|example)\b", re.IGNORECASE)
"""Line beginnings that announce reasoning, not an answer."""
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_MOST_CANDIDATES = 50
"""Maximum number of boxes, hash lines or phrases that are examined, from the end."""
_LONGEST_CLEANED = 2000
"""Characters of a candidate that are examined; far more than grading accepts as an answer."""
_PHRASE_REACH = 400
"""Characters after a phrase that are examined; an answer that needs more does not count."""


class Stated(NamedTuple):
    """A stated answer."""

    text: str
    """The answer, cleaned: a letter for choices, yes or no, a number, or LaTeX."""
    how: str
    """Form in which it was stated: ``"boxed"``, ``"####"``, ``"phrase"`` or ``"alone"``."""


def extract(kind: AnswerKind, text: str, choices: tuple[str, ...] = ()) -> Stated | None:
    """The final answer that a text states, or ``None`` when it states none.

    Args:
        kind: kind of answer to look for.
        text: the generated text, without the prompt.
        choices: for ``kind="choice"``, the options' texts; an option quoted in full counts as its letter.
    """
    read: Callable[[str], str | None] = {
        "number": read_number,
        "math": read_maths,
        "choice": lambda candidate: read_letter(candidate, choices),
        "yesno": read_yes_no,
    }[kind]
    text = split_thinking(text).final or ""
    boxed = [cleaned for content in _last_boxes(text) if (cleaned := clean(content)).lower() not in _PLACEHOLDERS]
    readable = filter(None, map(read, boxed if kind in ("choice", "yesno") else boxed[:1]))
    if (answer := next(readable, None)) is not None:
        return Stated(answer, "boxed")
    for how, candidates in (("####", _hash_lines(text)), ("phrase", _phrases(text))):
        for candidate in candidates:
            # a lone letter after #### is a letter; in a phrase a small one may be an article
            if (answer := read(candidate.upper() if how == "####" and kind == "choice" and len(candidate) == 1 else candidate)) is not None:
                return Stated(answer, how)
    if boxed:  # what was boxed is the answer, even if it cannot be read
        return Stated(boxed[0], "boxed")
    return _alone(kind, text, read)


def _alone(kind: AnswerKind, text: str, read: Callable[[str], str | None]) -> Stated | None:
    """The answer of a text that is nothing but an answer: a letter, yes or no, a number, or one formula between maths delimiters."""
    candidate = clean(text)
    if kind in ("choice", "yesno"):
        alone = len(candidate.split()) <= 3
    else:
        alone = (kind == "math" and re.fullmatch(_SEGMENT, text.strip(), re.DOTALL)) or re.fullmatch(
            _NUMBER, CURRENCY.sub("", candidate).strip()
        )
    answer = read(candidate) if alone and "\n" not in text.strip() else None
    return None if answer is None else Stated(answer, "alone")


class _Box(NamedTuple):
    """Where a balanced box stands in a text, and where its content does: a box inside others costs four numbers, not a copy."""

    start: int
    end: int
    first: int
    last: int


def _last_boxes(text: str) -> Iterator[str]:
    """Contents of the last boxes, last first. Boxes that make up one list ("$\\boxed{3}$, $\\boxed{5}$ and $\\boxed{7}$") are one."""
    lists: deque[list[_Box]] = deque(maxlen=_MOST_CANDIDATES)
    end = 0
    for box in _boxes(text):
        if lists and _BETWEEN_BOXES.fullmatch(" ".join(text[end : box.start].split())):
            lists[-1].append(box)
        else:
            lists.append([box])
        end = box.end
    for each in reversed(lists):
        yield ", ".join(dict.fromkeys(text[box.first : box.last] for box in each))


def boxes(text: str) -> list[str]:
    """Contents of all balanced ``\\boxed{...}`` that lie in no other one, in order. Linear in the length of the text."""
    outer: list[_Box] = []
    for box in _boxes(text):
        while outer and outer[-1].start > box.start:
            outer.pop()
        outer.append(box)
    return [text[box.first : box.last] for box in outer]


def _boxes(text: str) -> Iterator[_Box]:
    """Each balanced box, in the order in which they close."""
    opened: list[tuple[int, int] | None] = []
    for match in _BRACES.finditer(text):
        if match["open"]:
            opened.append(match.span())
        elif match["bare"]:
            yield _Box(*match.span(), *match.span("bare"))
        elif match["brace"]:
            opened.append(None)
        elif match["close"] and opened and (box := opened.pop()) is not None:
            yield _Box(box[0], match.end(), box[1], match.start())


def clean(text: str) -> str:
    """An answer without bold marks, maths delimiters, special tokens and closing punctuation around it."""
    text = ascii_spelling(" ".join(text.split())[:_LONGEST_CLEANED])
    text = re.sub(r"<\|[^|<>]*\|>|</s>", "", text).strip()
    text = re.sub(r"\*\*(.+?)\*\*", r"\1", text)
    text = re.sub(r"(?:\b(?:US|CA|AU|NZ|HK|[CAS])(?=\\?\$\s?\d))?(?<!\\)\\?\$", "", text.replace("...", "\\ldots ")).strip(" \t\n*`")
    text = re.sub(r"^\\[(\[]\s*|\s*\\[)\]]$", "", text.rstrip(".,;: "))
    wrapped = re.fullmatch(r"<([^<>]*)>|\[(answer|letter|yes or no)\]", text)
    return (wrapped[1] or wrapped[2] if wrapped else text).strip('"“” ').rstrip(".,;:").strip()


def _last(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The last matches of a pattern, last first; limited, so that a text that repeats itself is not slow."""
    return reversed(deque(pattern.finditer(text), maxlen=_MOST_CANDIDATES))


def _hash_lines(text: str) -> Iterator[str]:
    """The text after each ``####``, last first."""
    for match in _last(_HASHES, text):
        phrase = _PHRASE.search(match[1])
        candidate = clean(match[1][phrase.end() :] if phrase else match[1])
        if candidate.lower() not in _PLACEHOLDERS:
            yield candidate


def _phrases(text: str) -> Iterator[str]:
    """The statement after each "answer is", "answer:", last first, cut at the end of its sentence."""
    for match in _last(_PHRASE, text):
        rest = text[match.end() : match.end() + _PHRASE_REACH]
        lead = rest.lstrip(_LEAD)
        if maths := _MATHS.match(lead):
            candidate = ",".join(clean(part) for part in re.findall(_SEGMENT, maths[0], re.DOTALL))
        else:
            same_line = rest.lstrip(" \t*_:")
            line = lead.partition("\n")[0]
            if same_line.startswith("\n") and not re.fullmatch(r"[(*$]*[-\w.,/]{1,12}[)*%.]*", line.strip()):
                continue  # "Answer:" as a heading is followed by reasoning, unless the next line is an answer alone
            candidate = clean(_SENTENCE_END.split(line, maxsplit=1)[0])
        if candidate.lower() not in _PLACEHOLDERS and "\\boxed" not in candidate:
            yield candidate


# -- reading an answer of each kind ----------------------------------------------------------------------------------------

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}|/\d+| \d+/\d+)?|[-+]?\.\d+"
_AMOUNT = re.compile(rf"\s*({_NUMBER})\s*(?:%|percent)?\s*((?:[°/]?\s*[A-Za-z][A-Za-z .'/^\d{{}}()-]*|°)?)(?:\s+\(.*)?", re.DOTALL)
"""A statement that is one number with its per cent sign or unit."""
_AMONG_WORDS = re.compile(rf"(?<![^\s])({_NUMBER})(?=[\s.,;:!?%)]|$)")
"""A number that stands by itself in a sentence."""
_OTHER_LETTER = re.compile(
    r"\s*(?:(?:,|and\b|or\b|&|/)\s*\(?[A-Z]\)?(?![A-Za-z])|(?:is|was|are|can(?:no|')t|must)\b.{0,20}?\b(?:not|wrong|incorrect|false|out|excluded)\b)"
)
"""Behind a letter: a second one, or that it is not the answer."""
_NOT_STATED = re.compile(r"\b(?:double|times|sum|difference|product|step|part|case|problem|question)\b", re.IGNORECASE)
"""Words that make the number beside them something else than the answer: "the sum of 5", "step 5"."""


def read_number(candidate: str) -> str | None:
    """The one number that a short statement names, without currency or unit; thousands marks stay.

    Of an equation the right side counts (``5 + 3 = 8``). An unevaluated expression names no number.
    """
    side = re.split(r"=|\\approx|≈", candidate)[-1]
    side = re.sub(r"\\(?:text|mbox|mathrm)|[{}]|\\(?=%)", " ", CURRENCY.sub("", clean(side)))
    side = " ".join(spell_out(side).split())
    if not side or re.search(r"\bor\b", candidate):  # "5 + 3 =", cut off; "x = 3 or x = 5"
        return None
    if match := _AMOUNT.fullmatch(side):
        words = re.sub(r"(?:\^\s*|(?<=[A-Za-z]))-?\d\b|[°^/]", " ", match[2]).strip()
        if re.fullmatch(r"[A-Za-z]{1,3}", words):  # "5 xy" is a product
            return match[1] if words in (*"mshgLlCFK", "st", "nd", "rd", "th") or (len(words) > 1 and is_unit(words)) else None
        if not alters(words):
            return match[1]
    numbers = re.findall(r"\d+", re.sub(_NUMBER, "0", side))
    if len(numbers) != 1 or re.search(r"[\\^_+*<>!|]", side) or _NOT_STATED.search(side) or CHANGES.search(side):
        return read_maths(candidate) if re.search(r"\d", candidate) and not _WORD.search(candidate) else None
    match = _AMONG_WORDS.search(side)
    return match[1] if match else None


def read_maths(candidate: str) -> str | None:
    """A mathematical answer or a single word; ``None`` for a statement in words."""
    wordy = (
        is_prose(candidate)
        or _HEADING.match(candidate)
        or (" " in candidate and _WORD.search(candidate) and not re.search(r"[\d\\]", candidate))
    )
    return candidate if candidate and not wordy else None


def read_letter(candidate: str, choices: tuple[str, ...] = ()) -> str | None:
    """The option's letter; an option quoted in full counts as its letter, an article ("A reasonable choice") does not."""
    text = normalise_words(candidate)
    options = [normalise_words(choice) for choice in choices]
    for quoted, among in ((text, options), (text.lower(), [option.lower() for option in options])):
        if among.count(quoted) == 1:
            return chr(ord("A") + among.index(quoted))
    text = re.sub(r"^(?:the\s+)?(?:option|choice|answer|letter)\b\s*:?\s*", "", text, flags=re.IGNORECASE)
    match = re.match(r"[(\[]([A-Za-z])[)\]]|([A-Z])(?:$|[.):](?=\s|$)|(?=\s+[-(]))|([a-z])\)$|([b-z])$", text)
    if match is None or _OTHER_LETTER.match(text, match.end()):
        return None  # no letter, two, or one that is ruled out
    return next(group for group in match.groups() if group).upper()


def read_yes_no(candidate: str) -> str | None:
    """``"yes"`` or ``"no"`` where the statement begins with it; true counts as yes, false as no."""
    match = re.match(r"(yes|true|no|false)\b\s*(?:$|[,.;:!(-])", normalise_words(candidate), re.IGNORECASE)
    if match is None:
        return None
    return "yes" if match[1].lower() in ("yes", "true") else "no"


def normalise_words(text: str) -> str:
    """Plain words of a short text: LaTeX text commands, quotation marks and closing full stop removed, spaces single."""
    text = re.sub(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1", text)
    return " ".join(clean(text).strip("\"'").split()).rstrip(".")
