"""Verdicts: the table of answers that must come out right, the checker's limits, and its manners."""

import threading
import time

import psutil
import pytest

from stir_core.errors import DataError
from stir_core.records import Verdict
from stir_core.tasks import checker as checker_module
from stir_core.tasks.grading import Grader, graded_alongside


@pytest.fixture(scope="module")
def grader():
    with Grader() as shared:
        shared.grade("math", "x+1", r"\boxed{1+x}")  # starts the checker, which does not count as comparing
        yield shared


def checkers() -> list[psutil.Process]:
    """The checker processes that this one has started."""
    children = psutil.Process().children()
    return [each for each in children if each.status() != psutil.STATUS_ZOMBIE and "stir_core.tasks.grade_worker" in each.cmdline()]


MATRIX = r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"


@pytest.mark.parametrize(
    ("kind", "gold", "text", "right"),
    [
        ("math", r"10,\!080", r"\boxed{80}", False),
        ("math", r"10,\!080", r"\boxed{10080}", True),
        ("math", "1,000", r"\boxed{2,000}", False),
        ("math", "1,000", r"\boxed{1000}", True),
        ("math", "1,2", r"\boxed{5,2}", False),
        ("math", "1,2", r"\boxed{1,2}", True),
        ("math", r"\emptyset", r"\boxed{\{\emptyset\}}", False),
        ("math", r"\emptyset", r"\boxed{\{\}}", True),
        ("math", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", rf"\boxed{{{MATRIX}}}", True),
        ("choice", "C", r"\boxed{\text{(C)}}", True),
        ("math", "C", r"\boxed{\text{(C)}}", True),
        ("choice", "C", "A reasonable choice is the third.\n#### C", True),
        ("math", "204", r"\boxed{204}. This took 12 minutes.", True),
        ("math", "13", r"\boxed{12} ... so \boxed{13}", True),
        ("math", "7", r'\boxed{0+__import__("os").getpid()}', False),
        ("number", "7", r'\boxed{0+__import__("os").getpid()}', False),
        ("math", "0", r'\boxed{0+__import__("os").getpid()}', False),
        ("math", "7", r"\boxed{9^{9^{9^{9}}}}", False),
    ],
)
def test_the_table_of_the_specification(grader, kind, gold, text, right):
    start = time.perf_counter()
    verdict = grader.grade(kind, gold, text)
    assert verdict.correct is right, verdict
    assert verdict.finished and verdict.extracted
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("kind", ["math", "number"])
def test_a_cut_off_text_has_no_answer(grader, kind):
    verdict = grader.grade(kind, "204", "Let me try n = 204")
    assert verdict == Verdict(correct=False, extracted=None, gold="204", method="none", reason="no final answer was stated", finished=False)


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"\frac{3}{4}", "3/4", True),
        ("x^2-1", "(x-1)(x+1)", True),
        ("6-5i", "-5i+6", True),
        (r"11\sqrt2", r"\sqrt{242}", True),
        (r"\left(3,\frac{\pi}{2}\right)", r"\left( 3, \dfrac{\pi}{2} \right)", True),
        (r"\left(3,\frac{\pi}{2}\right)", r"\left(\frac{\pi}{2}, 3\right)", False),
        ("(1,2)", "(2,1)", False),
        ("[0,1)", "(0,1)", False),
        (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)", True),
        ("[-2,7]", r"x \in [-2,7]", True),
        (r"1\pm\sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", True),
        (r"1\pm\sqrt{19}", r"1+\sqrt{19}", False),
        ("25", "12 13", False),
        ("5", "x=5", True),
        ("y=2x+1", "y = 1 + 2x", True),
        (r"336^\circ", "336", True),
        ("336", r"336^\circ", True),
        ("12", r"12\text{ cm}^2", True),
        (r"50\%", "0.5", True),
        (r"50\%", "50", True),
        ("2500", r"25\%", False),
        ("3", "3 pi", False),
        ("5", "x = 3 or x = 5", False),
        ("5", "x = 3, x = 5", False),
        ("12", "12 dollars", True),
        (r"\text{Evelyn}", r"\text{evelyn}", True),
        (r"\text{Evelyn}", "Nylvee", False),
        ("5", r"\frac{5}{", False),
        ("1000000", "10^6", True),
        ("1", r"\frac{1}{0}", False),
    ],
)
def test_mathematical_answers(grader, gold, answer, right):
    verdict = grader.grade("math", gold, rf"So it is \boxed{{{answer}}}.")
    assert verdict.correct is right, verdict


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("18", "#### 18 dollars", True),
        ("1200", "#### $1,200.", True),
        ("8", "#### 5 + 3 = 8", True),
        ("8", "#### 5 + 3", False),  # the sum itself is no answer to the sum
        ("3", "#### 6/2", False),
        ("2.5", "#### 5/2", True),
        ("18", "#### 18.00", True),
        ("0", "#### 0", True),
        ("12", "#### 1,2", False),
    ],
)
def test_numbers(grader, gold, text, right):
    assert grader.grade("number", gold, text).correct is right


def test_words_and_letters(grader):
    assert grader.grade("choice", "B", r"\boxed{\text{salmon}}", choices=("fish", "salmon")).correct
    assert grader.grade("choice", "C", r"\boxed{c}").correct
    assert not grader.grade("choice", "A", "#### B").correct
    assert grader.grade("yesno", "yes", "#### True").correct
    assert not grader.grade("yesno", "no", r"\boxed{yes}").correct


def test_reasons_are_for_readers(grader):
    verdict = grader.grade("number", "19", "#### 18 dollars")
    assert (verdict.extracted, verdict.method, verdict.reason) == ("18", "####, exact number", "18 is not 19")
    assert grader.grade("math", "x+1", r"\boxed{1+x}").method == "boxed, algebra"


@pytest.mark.parametrize("kind", ["math", "number"])
def test_an_endless_answer_is_wrong(grader, kind):
    verdict = grader.grade(kind, "1", r"\boxed{" + "1+" * 400 + "1}")
    assert not verdict.correct and "more than 500" in verdict.reason
    assert verdict.extracted is not None and len(verdict.extracted) <= 500


def test_a_comparison_that_hangs_is_stopped_and_the_next_one_works():
    with Grader(limit_s=0.5) as grader:
        assert grader.grade("math", "x+1", r"\boxed{1+x}").correct
        verdict = grader.grade("math", "7", r"\boxed{9^{9^{99}}}")
        assert not verdict.correct and verdict.finished
        assert verdict.method == "boxed, algebra stopped"
        assert verdict.reason == "comparison stopped: it took more than 0.5 s"
        assert grader.grade("math", "x+1", r"\boxed{1+x}").correct


def test_a_checker_that_dies_is_replaced(grader):
    assert grader.grade("math", "x+1", r"\boxed{1+x}").correct
    before = checkers()
    for process in before:
        process.kill()
    psutil.wait_procs(before)
    assert before and grader.grade("math", "x+2", r"\boxed{2+x}").correct


def test_threads_share_a_grader(grader):
    results: dict[int, bool] = {}

    def work(i: int) -> None:
        results[i] = grader.grade("math", f"x+{i}", rf"\boxed{{{i % 5}+x}}").correct

    threads = [threading.Thread(target=work, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: i < 5 for i in range(10)}


def test_cheap_comparisons_start_no_process():
    before = checkers()
    with Grader() as grader:
        grader.grade("number", "5", "#### 5")
        grader.grade("choice", "A", "#### A")
        grader.grade("math", "5", r"\boxed{6}")
        grader.grade("math", "x", r"\boxed{x}")
        assert set(checkers()) <= set(before)


def test_closing_ends_the_process_and_may_be_repeated():
    before, grader = checkers(), Grader()
    grader.grade("math", "x+1", r"\boxed{1+x}")
    (process,) = set(checkers()) - set(before)
    grader.close()
    grader.close()
    assert not process.is_running()


def test_a_checker_that_cannot_start_is_an_error_not_a_verdict(monkeypatch, tmp_path):
    monkeypatch.setattr(checker_module.sys, "executable", str(tmp_path / "no-python"))
    with Grader() as grader, pytest.raises(DataError, match="cannot be started"):
        grader.grade("math", "x+1", r"\boxed{1+x}")


def test_gold_answers_that_fit_no_kind():
    with Grader() as grader, pytest.raises(DataError, match=r"gold answer 'many' does not fit answer kind 'number'"):
        grader.grade("number", "many", "#### 5")
    with pytest.raises(DataError, match="is not positive"):
        Grader(limit_s=0.0)


def test_answers_are_graded_while_others_are_made():
    """The first answer is being graded when the iterator makes the second, and order is kept whichever is graded when."""
    begun, made = threading.Event(), threading.Event()

    def answers():
        yield "1"
        assert begun.wait(30), "graded before the next is made"
        made.set()
        yield from ("2", "3")

    def grade(answer: str) -> Verdict:
        begun.set()
        assert made.wait(30), "decoding waits for grading"
        return Verdict(correct=answer == "2", extracted=answer, gold="2", method="m", reason="r", finished=True)

    found = list(graded_alongside(answers(), grade))
    assert [(answer, verdict.extracted, verdict.correct) for answer, verdict in found] == [(n, n, n == "2") for n in "123"]


def test_answers_that_wait_when_the_iterator_fails_come_before_its_error():
    failed, taken = threading.Event(), []

    def answers():
        yield from "123"
        failed.set()
        raise KeyboardInterrupt

    def grade(answer: str) -> Verdict:
        assert failed.wait(30)  # so that all three wait
        return Verdict(correct=True, extracted=answer, gold=answer, method="m", reason="r", finished=True)

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        for answer, _ in graded_alongside(answers(), grade):
            taken.append(answer)
    assert taken == ["1", "2", "3"] and threading.active_count() == before
    failed.set()
    left = graded_alongside(answers(), grade)
    assert next(left)[0] == "1"
    left.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("fails", ["answers", "grade"])
def test_a_failure_is_raised_and_leaves_no_thread(fails):
    def answers():
        yield "1"
        if fails == "answers":
            raise KeyError(fails)

    def grade(answer: str) -> Verdict:
        raise KeyError(fails)

    before = threading.active_count()
    with pytest.raises(KeyError, match=fails):
        list(graded_alongside(answers(), grade))
    assert threading.active_count() == before
