"""Normal forms, plain numbers, and answers that have parts."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stir_core.tasks.latex import is_prose, normalise, plain_number
from stir_core.tasks.structure import Parts, same_answer, take_apart


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\dfrac\pi{2})".replace(r"\dfrac\pi", r"\dfrac{\pi}")),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\text{(C)}", "C"),
        (r"12\text{ cm}^2", "12"),
        (r"336^\circ", "336"),
        (r"336^{\circ}", "336"),
        (r"\$18", "18"),
        (r"50\%", "50"),
        (r"\frac12", r"\tfrac{1}{2}"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("1\\text{ and }2", "1, 2"),
        ("\\textbf{(211) }", "211"),
        ("−5", "-5"),
        ("2π", r"2\pi"),
    ],
)
def test_typography_goes(one, other):
    assert normalise(one) == normalise(other)


def test_a_code_point_without_a_name_is_kept():
    """U+03A2 lies among the Greek capitals and is not assigned; a random model writes it."""
    assert normalise("2\u03a2") == "2\u03a2" and normalise("2Σ") == normalise(r"2\Sigma")


@pytest.mark.parametrize(
    ("one", "other"),
    [("12 13", "1213"), (r"\pi r", r"\pir"), ("2 1/2", "21/2"), ("(1,2)", "1,2"), (r"2\mathrm{i}", "2"), ("[0,1)", "(0,1)")],
)
def test_meaning_stays(one, other):
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000", 1000),
        (r"10,\!080", 10080),
        ("10{,}080", 10080),
        ("-3.50", Fraction(-7, 2)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        ("2 1/2", Fraction(5, 2)),
        ("025", 25),
        ("1,2", None),
        ("1,00", None),
        ("2+3", None),
        ("12 13", None),
        ("1/0", None),
        ("", None),
        (".", None),
        ("x", None),
        ("1e5", 100_000),
        (r"1.5 \times 10^{-3}", Fraction(3, 2000)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("0.142857142857...", Fraction(1, 7)),
        ("0.14...", None),
        ("12 000", 12_000),
    ],
)
def test_plain_numbers(text, value):
    assert plain_number(normalise(text)) == value


@given(st.integers(-(10**12), 10**12))
def test_every_way_to_write_an_integer(n):
    assert plain_number(normalise(str(n))) == plain_number(normalise(f"{n:,}")) == plain_number(normalise(f"{n}.0")) == n


@given(st.text(max_size=60))
def test_any_text_has_a_normal_form(text):
    plain_number(normalise(text))
    take_apart(normalise(text))


def test_prose():
    assert is_prose("the set of all reals")
    assert not is_prose(r"\begin{pmatrix} a \\ b \end{pmatrix} + \begin{pmatrix} a \\ b \end{pmatrix}")


def test_taking_apart():
    assert take_apart("(1,2)") == Parts("()", ("1", "2"))
    assert take_apart("[0,1)") == Parts("[)", ("0", "1"))
    assert take_apart(r"\{3\}") == Parts("{}", ("3",))
    assert take_apart("1,(2,3)") == Parts("", ("1", "(2,3)"))
    assert take_apart(r"1\pm\sqrt{2}") == Parts("", (r"1+\sqrt{2}", r"1-\sqrt{2}"))
    assert take_apart("(1+2)(3+4)") is None
    assert take_apart("f(1,2)") is None


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("1,2", "2,1", True),
        ("1,2", "5,2", False),
        ("1,2", "12", False),
        ("1,2", "1,2,2", False),
        ("1,1,2", "1,2,2", False),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "1,2", True),
        ("(1,2)", "[1,2]", False),
        (r"\{1,2\}", "2,1", True),
        (r"\{3\}", "3", True),
        ("3", r"\{3\}", True),
        (r"\{1,2\}", "(1,2)", False),
        ("(0.5,2)", r"(\frac{1}{2},2.0)", True),
        ("25", "12 13", False),
    ],
)
def test_parts_are_compared_without_algebra(gold, answer, same):
    assert same_answer(gold, answer, leaf=lambda a, b: a == b) is same
