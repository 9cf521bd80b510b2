"""Grading: a generated text and a gold answer -> a verdict with its reason.

Extraction (:mod:`stir_core.tasks.extract`) comes first, then cheap exact comparisons, then parsing and algebra
(:mod:`stir_core.tasks.algebra`), in a process that is stopped when one comparison takes too long. The content of an answer is never
executed. A comparison that was stopped or crashed makes the answer wrong, with that reason; a checker that cannot be started is an error,
not a verdict.
"""

import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from stir_core.errors import DataError
from stir_core.records import AnswerKind, Problem, Trace, Verdict
from stir_core.tasks.checker import Checker
from stir_core.tasks.extract import Stated, extract, read_letter, read_number, read_yes_no
from stir_core.tasks.latex import is_prose, normalise, other_unit, plain_number, plain_words
from stir_core.tasks.structure import same_text
from stir_core.tasks.thinking import graded_part, split_thinking
from stir_core.tasks.units import CHANGES

T = TypeVar("T")

MAX_ANSWER_CHARS = 500
MAX_GOLD_CHARS = 2000
"""Fewer than the 4,300 digits that Python converts to a number at once."""
AHEAD = 8
"""Answers that may wait for their grades before decoding waits for these."""
DEFAULT_LIMIT_S = 1.5
"""Seconds of processor time for one comparison; with the time to stop it, any answer is graded within 2 seconds."""


class Grader:
    """Grades answers, and owns the checker process, which starts when it is first needed.

    Usable from any thread and as a context manager; closed at exit in any case.

    Args:
        limit_s: seconds of processor time that one comparison may take.
    """

    def __init__(self, limit_s: float = DEFAULT_LIMIT_S) -> None:
        self._checker = Checker(limit_s)

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the checker process; a later call to :meth:`grade` would start a new one."""
        self._checker.close()

    def judge(self, problem: Problem, answer_text: str) -> Verdict:
        """Judge a generated text against a problem's gold answer; see :meth:`grade`."""
        return self.grade(problem.kind, problem.answer, answer_text, choices=problem.choices)

    def judge_traces(self, ended: Iterable[tuple[int, Trace]], problem: Callable[[int], Problem]) -> Iterator[tuple[int, Trace, Verdict]]:
        """Judge numbered answers as they end, while the others are decoded; see :func:`graded_alongside`.

        Args:
            problem: the problem of an answer's number.
        """

        def grade(each: tuple[int, Trace]) -> Verdict:
            return self.judge(problem(each[0]), graded_part(each[1].text, each[1].thinking))

        for (number, trace), verdict in graded_alongside(ended, grade):
            yield number, trace, verdict

    def grade(self, kind: AnswerKind, gold: str, answer_text: str, *, choices: tuple[str, ...] = ()) -> Verdict:
        """Judge a generated text against the gold answer.

        Args:
            kind: how answers are stated and compared.
            gold: LaTeX, a number, a letter, or yes / no, as in :class:`~stir_core.records.Problem`.
            answer_text: the generated text, without the prompt.
            choices: for ``kind="choice"``, the options' texts.

        Raises:
            DataError: the gold answer does not fit the kind, or the checker cannot be started.
        """
        _check_gold(kind, gold)
        stated = extract(kind, answer_text, choices)
        if stated is None:
            closed = split_thinking(answer_text).final is not None
            reason = "no final answer was stated" if closed else "the thinking was not closed, so no final answer was stated"
            return Verdict(correct=False, extracted=None, gold=gold, method="none", reason=reason, finished=False)
        correct, compared, reason = self._compare(kind, gold, stated)
        method = f"{stated.how}, {compared}"
        return Verdict(correct=correct, extracted=stated.text[:MAX_ANSWER_CHARS], gold=gold, method=method, reason=reason, finished=True)

    def _compare(self, kind: AnswerKind, gold: str, stated: Stated) -> tuple[bool, str, str]:
        """(correct, how it was compared, why)."""
        if len(stated.text) > MAX_ANSWER_CHARS:
            return False, "not compared", f"the answer has {len(stated.text)} characters, more than {MAX_ANSWER_CHARS}"
        if kind == "choice":
            return _outcome(stated.text.upper() == read_letter(gold), stated, gold, "letter")
        if kind == "yesno":
            return _outcome(stated.text == read_yes_no(gold), stated, gold, "yes or no")
        if kind == "number":
            return _compare_numbers(gold, stated)
        return self._compare_maths(gold, stated)

    def _compare_maths(self, gold: str, stated: Stated) -> tuple[bool, str, str]:
        if compared := compare_without_algebra(gold, stated.text):
            return _outcome(compared[0], stated, gold, compared[1])
        same, reason = self._checker.same(normalise(gold), normalise(stated.text))
        if same is None:
            return False, "algebra stopped", reason
        return _outcome(same, stated, gold, "algebra")


def graded_alongside(answers: Iterable[T], grade: Callable[[T], Verdict]) -> Generator[tuple[T, Verdict]]:
    """Grade answers in a thread while the iterator makes the next ones, which therefore need not wait for the checker.

    Yields:
        Each answer with its verdict, in the order in which they came. When the iterator fails, those that wait come before its error; when
        this is closed, they are lost.
    """
    waiting: deque[tuple[T, Future[Verdict]]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="stir-graded")
    try:
        for answer in answers:
            waiting.append((answer, pool.submit(grade, answer)))
            while waiting and (waiting[0][1].done() or len(waiting) > AHEAD):
                first, verdict = waiting.popleft()
                yield first, verdict.result()
    except GeneratorExit:  # nobody takes what waits
        waiting.clear()
        raise
    finally:
        try:
            for last, verdict in waiting:
                yield last, verdict.result()
        finally:
            pool.shutdown(cancel_futures=True)


def compare_without_algebra(gold: str, answer: str) -> tuple[bool, str] | None:
    """Compare two mathematical answers by text and exact arithmetic, where that is enough.

    Returns:
        (equal, how it was decided), or ``None`` when the comparison needs algebra.
    """
    if other_unit(gold, answer):
        return False, "another unit"
    wanted, given = normalise(gold), normalise(answer)
    if wanted == given:
        return True, "equal text"
    if re.fullmatch(r"\\(?:text|mbox)\s*\{[^{}]*(?:[A-Za-z]{2}|[ap]\.m)[^{}]*\}", gold.strip()):
        return _letters(wanted) == _letters(given), "words"
    value, value_given = plain_number(wanted), plain_number(given)
    if value is not None and value_given is None and not re.search("[,;]", given):
        value_given = plain_number(normalise(read_number(answer) or ""))  # "Lily has 12 apples", but not one of several values
    if value is not None and value_given is not None:
        # 50 % is written 50 %, 50 or 0.5: where only one side has the sign, the other is its number, or the fraction. 0.25 % is not 1/4
        percent, percent_given = (bool(re.search("%|percent", side)) for side in (gold, answer))
        share = value / 100 if percent and not percent_given else value
        share_given = value_given / 100 if percent_given and not percent else value_given
        bare = value == value_given and not (percent_given and not percent and 0 < abs(value) < 1)
        return bare or share == share_given, "exact number"
    if (same := same_text(wanted, given)) is not None:
        return same, "exact number"
    if is_prose(answer) or CHANGES.search(plain_words(answer)):
        return False, "words, not an expression"
    if _power_tower(given) or "__" in given:
        return False, "not evaluated"
    return None


def _compare_numbers(gold: str, stated: Stated) -> tuple[bool, str, str]:
    """Compare numbers exactly, without evaluating anything: ``5 + 3`` is not an answer to "what is 5 + 3"."""
    value, wanted = plain_number(normalise(stated.text)), plain_number(normalise(gold))
    unreduced = "/" in stated.text or "frac" in stated.text
    if value is None or (unreduced and wanted is not None and wanted.denominator == 1):
        return False, "exact number", f"the answer {stated.text} is not a plain number"
    return _outcome(value == wanted, stated, gold, "exact number")


def _outcome(correct: bool, stated: Stated, gold: str, how: str) -> tuple[bool, str, str]:
    return correct, how, f"{stated.text} {'equals' if correct else 'is not'} {gold}"


def _letters(words: str) -> str:
    return re.sub(r"[\s.,:()]", "", words).casefold()


def _power_tower(text: str) -> bool:
    """Whether it has a power of a power of a power, which is not a sensible final answer and cannot be computed."""
    return bool(re.search(r"\^\d+\^\d+\^", re.sub(r"[{}()]", "", text)))


def _check_gold(kind: AnswerKind, gold: str) -> None:
    fits = {
        "number": lambda: plain_number(normalise(gold)) is not None,
        "math": lambda: bool(gold.strip()),
        "choice": lambda: read_letter(gold) is not None,
        "yesno": lambda: read_yes_no(gold) is not None,
    }
    if len(gold) > MAX_GOLD_CHARS:
        raise DataError(f"gold answer {gold[:40]!r}... has {len(gold)} characters, more than {MAX_GOLD_CHARS}: shorten it")
    if not fits[kind]():
        raise DataError(f"gold answer {gold!r} does not fit answer kind {kind!r}: give a number, LaTeX, a letter, or yes / no")
