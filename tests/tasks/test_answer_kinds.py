"""The kinds of answers that are easily judged wrongly, each with right and wrong answers, and all cases below STIR_CASES_ROOT."""

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stir_core.tasks.grading import Grader, compare_without_algebra

MATHS = {
    "the base is part of a number": [
        ("212_{5}", "212_5", True),
        ("212_{5}", "212_{7}", False),
        ("212_5", "(212)_5", True),
        ("212_5", "212", True),
        ("212_5", r"212 \text{ (base 5)}", True),
        ("212", "212_{10}", True),
        ("23", "212_{3}", False),
        ("212", "212_5", False),
        ("212_5", "57", False),
        ("1A_{16}", "1a_{16}", True),
        ("-12_3", "12_3", False),
        ("12_3, 21_3", "21_3, 12_3", True),
        ("12_3, 21_3", "21_4, 12_3", False),
    ],
    "exact numbers are compared exactly": [
        (r"\frac{1}{3^{80}}", r"\frac{1}{3^{81}}", False),
        (r"\frac{1}{3^{80}}", "3^{-80}", True),
        (r"\frac{5!}{300!}", r"\frac{6!}{300!}", False),
        (r"\frac{\pi}{10^{40}}", r"\frac{\pi}{10^{41}}", False),
        ("0.00000001", "0.00000002", False),
        ("10^{-9}", "0.000000001", True),
        ("10^{-9}", "0", False),
        (r"\frac{1}{3}", "0.333333", False),
        (r"\sqrt{2}", "1.41421356", False),
        ("2^{100}", "2^{100}+1", False),
        ("2^{64}", "18446744073709551616", True),
        (r"\sqrt{2}+10^{-30}", r"\sqrt{2}", False),
        (r"\sqrt{18}", r"3\sqrt{2}", True),
    ],
    "words that change a value are no unit": [
        ("3", r"3 \text{ thousand}", False),
        ("3000", r"3 \text{ thousand}", True),
        ("2500000", r"2.5 \text{ million}", True),
        ("4", r"4 \text{ and a half}", False),
        ("4.5", r"4 \text{ and a half}", True),
        ("6", r"6 \text{ or 7}", False),
        ("6", r"6 \text{ feet 2 inches}", False),
        ("6", r"6 \text{ dozen}", False),
        ("72", r"6 \text{ dozen}", True),
        ("8", r"\text{minus } 8", False),
        ("-8", r"\text{minus } 8", True),
        ("8", r"8 \text{ thirds}", False),
        ("5", r"5 \text{ squared}", False),
        ("9", r"9 \text{ p.m.}", True),
        (r"9 \text{ a.m.}", r"9 \text{ p.m.}", False),
        ("2", r"2\text{ hours and twenty minutes}", False),
        ("5", "5x", False),
        ("2", "2xy", False),
        ("2", "2 xy", False),
        ("3", "3 pi", False),
        ("6", "6 or more", False),
    ],
    "a bound is no value": [
        ("7", r"\text{at most } 7", False),
        ("7", r"\text{more than } 7", False),
        ("7", "x > 7", False),
        ("7", r"\ge 7", False),
        ("7", r"x \le 7", False),
        ("7", r"\text{up to }7", False),
        ("7", r"\text{about } 7", True),
        ("7", r"\approx 7", True),
    ],
    "factorial and absolute value": [
        ("4", "4!", False),
        ("24", "4!", True),
        ("-3", "|-3|", False),
        ("3", "|-3|", True),
        ("3", r"\lvert -3 \rvert", True),
        ("|x|", "x", False),
        ("|x|", "|-x|", True),
        (r"\sqrt{x^2}", "x", False),
        (r"\frac{7!}{5!}", "42", True),
        ("6", "3!", True),
    ],
    "pi, e and functions without backslash": [
        (r"3\pi", "3pi", True),
        (r"3\pi", "3*pi", True),
        (r"\frac{\pi}{4}", "pi/4", True),
        (r"3\pi", "3π", True),
        (r"\sqrt{7}", "sqrt(7)", True),
        (r"2\sqrt{7}", "2*sqrt(7)", True),
        (r"\sqrt{7}", "√7", True),
        (r"\ln 2", "ln(2)", True),
        (r"\ln 2", r"\log 3", False),
        ("x^{10}", "x^(10)", True),
        ("x^{10}", "x^10", True),
        ("2^{x+1}", "2^(x+1)", True),
        ("x^2", "x**2", True),
        (r"3\pi", "9.42", False),
        (r"\mathrm{e}^2", "e^2", True),
    ],
    "complex numbers": [
        ("3+2i", "3.0 + 2.0i", True),
        ("3+2i", "2i+3", True),
        ("3+2i", "3-2i", False),
        ("-i", "-1.0i", True),
        ("2i", "2", False),
        (r"3+2\mathrm{i}", "3+2i", True),
        ("2i", "(1+i)^2", True),
        ("5", "|3+4i|", True),
        (r"\frac{1+i}{2}", "0.5+0.5i", True),
        (r"i\sqrt{3}", r"\sqrt{3}i", True),
        (r"i\sqrt{3}", r"\sqrt{-3}", True),
    ],
    "repeating decimals": [
        (r"\frac{2}{3}", r"0.\overline{6}", True),
        (r"\frac{2}{3}", r"0.\bar{6}", True),
        (r"\frac{2}{3}", "0.666...", True),
        (r"\frac{2}{3}", r"0.666\ldots", True),
        (r"\frac{2}{3}", "0.6", False),
        (r"\frac{2}{3}", r"0.\overline{67}", False),
        (r"\frac{1}{7}", r"0.\overline{142857}", True),
        (r"0.1\overline{6}", r"\frac16", True),
        (r"\frac{1}{7}", r"0.\dot{1}4285\dot{7}", True),
        (r"-\frac{2}{3}", r"-0.\dot{6}", True),
        (r"\frac{2}{3}", "0.(6)", True),
        ("1", r"0.\overline{9}", True),
    ],
    "intervals, inequalities and sets": [
        (r"(-\infty, 5)", "x < 5", True),
        (r"x \ge 5", r"[5, \infty)", True),
        (r"x \ge 5", r"(5, \infty)", False),
        (r"x \ge 5", r"5 \le x", True),
        (r"-1 < x \le 4", "(-1, 4]", True),
        (r"-1 < x \le 4", r"4 \ge x > -1", True),
        (r"-1 < x \le 4", "[-1, 4)", False),
        (r"x \ne 2", r"(-\infty,2)\cup(2,\infty)", True),
        (r"(-\infty,-1)\cup(3,\infty)", r"x < -1 \text{ or } x > 3", True),
        (r"(-\infty,-1)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,-1)", True),
        (r"(-\infty,-1)\cup(3,\infty)", r"(-\infty,-1]\cup(3,\infty)", False),
        ("x < 5", "y < 5", False),
        ("x < 5", "x > 5", False),
        ("[0, 2]", r"0 \leq t \leq 2", True),
        (r"\{2\pm\sqrt3\}", r"\{2+\sqrt3, 2-\sqrt3\}", True),
        (r"\{2\pm\sqrt3\}", r"2 \pm \sqrt{3}", True),
        (r"\{2\pm\sqrt3\}", r"\{2+\sqrt3\}", False),
        (r"\{1,2,3\}", r"\{3,1,2\}", True),
        (r"\{1,2,3\}", r"\{1,2\}", False),
        (r"x=\pm 3", "3, -3", True),
        (r"\pm 3", "x = 3, x = -3", True),
        (r"\pm 3", "3", False),
        (r"\mathbb{R}", r"(-\infty,\infty)", True),
        ("(2,5)", "(5,2)", False),
        (r"x\in(2,5)", "2<x<5", True),
        ("[2,5]", r"2\le x\le 5", True),
    ],
    "names and equations": [
        ("(3,-4)", "(x, y) = (3, -4)", True),
        ("(3,-4)", "x = 3, y = -4", True),
        ("5", "x=5", True),
        ("x=5", "5", True),
        ("x=5", "y=5", False),
        ("5", r"\text{Area} = 5", True),
        ("y=3x-2", "y = -2+3x", True),
        ("y=3x-2", "3x - y = 2", True),
        ("y=3x-2", "y=3x+2", False),
        ("x^2+y^2=9", "9", False),
        ("3x+2", "f(x) = 3x+2", True),
        ("7", "3 + 4 = 7", True),
        ("7", r"\frac{21}{3} = 7", True),
        ("7", "3+4=8", False),
        (r"\sqrt{2}", r"\sqrt2 \approx 1.414", True),
        ("1.414", r"\sqrt2 \approx 1.414", True),
    ],
    "units, currency, spelling": [
        ("40", "40 km/h", True),
        ("40", "40 mph", True),
        ("40", r"40\text{ m/s}", True),
        ("40", r"40\,\mathrm{m/s^2}", True),
        (r"6\pi", r"6\pi \text{ square meters}", True),
        (r"6\pi", r"6\pi\text{ m}^2", True),
        (r"2\sqrt{3}", r"2\sqrt3 cm", True),
        ("40", "€40", True),
        ("40", "40 €", True),
        ("40", "£40", True),
        ("40", r"US\$40", True),
        ("40", "40 USD", True),
        ("40", "40°F", True),
        ("40", r"40^\circ C", True),
        ("40", r"40^{\circ}\text{C}", True),
        ("1.5", "1½", True),
        ("0.75", "¾", True),
        (r"\frac{3}{4}", "3⁄4", True),
        ("12000", r"12\,000", True),
        ("12000", "12 000", True),
        ("12000", "12{,}000", True),
        ("12000", "12\u202f000", True),
        ("12000", r"1.2 \times 10^4", True),
        ("12000", "1.2e4", True),
        ("0.0012", r"1.2\cdot 10^{-3}", True),
        ("12000", "1.2×10⁴", True),
        ("12000", r"1.2 \times 10^5", False),
        (r"12\text{ cm}", r"12 \text{ m}", False),
        (r"12\text{ cm}", "12 centimeters", True),
        (r"12 \text{ hours}", r"12 \text{ minutes}", False),
        (r"\$5", "5 dollars", True),
        (r"\$5", "5 cents", False),
        ("18", r"18\text{ apples}", True),
        ("x^2", "x²", True),
        ("5", "５", True),
        ("1000, 200", "200, 1000", True),
        ("100, 200", "200, 100", True),
        ("100, 200", "100200", False),
        ("(3; 5)", "(3,5)", True),
        ("-5", "–5", True),
        ("25%", r"25 \text{ percent}", True),
        ("7", r"\frac{14}{2}", True),
        ("1 1/2", r"1\frac{1}{2}", True),
        ("11/2", "1 1/2", False),
        (r"18\text{ km}", "18", True),
        ("12", r"12 \text{ boys and girls}", True),
        ("5", "5!", False),
        (r"\left(1,2\right)", r"\langle 1, 2\rangle", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}", False),
        (r"\frac\pi3", r"\frac{\pi}{3}", True),
        (r"\frac{\sqrt{2}}2", r"\frac{\sqrt 2}{2}", True),
        (r"\frac{\sqrt{2}}2", r"\frac{1}{\sqrt{2}}", True),
        (r"\alpha+1", "1+α", True),
        ("2:3", "2:3", True),
        ("50", "50%", True),
        (r"50\%", "0.5", True),
        (r"50\%", "0.05", False),
        (r"\text{4:30 p.m.}", r"\text{4:30 PM}", True),
        ("6 - 5i", "6-5 i", True),
        ("0", "0.0", True),
        ("0", "-0", True),
        ("0", "1", False),
    ],
    "other spellings": [
        ("7", r"7\frac{\text{km}}{\text{h}}", True),
        (r"12\pi", "12 pi cm^3", True),
        (r"12\pi", r"12\pi + 10^{-20}", False),
        (r"\mathbb{R}", r"\text{all real numbers}", True),
        (r"(-\infty,2)\cup(5,\infty)", r"x<2 \lor x>5", True),
        ("7", r"7 \text{ or fewer}", False),
        ("7", r"7 \times 10^{-2}", False),
        ("7", "7.0000001", False),
        ("7", "7 8", False),
        (r"\cos 40^\circ", r"\sin 50^\circ", True),
        (r"\cos 40^\circ", r"\cos 41^\circ", False),
        (r"\frac{1}{4}", r"25\%", True),
        (r"\frac{1}{4}", r"0.25\%", False),
        (r"(2,\infty)", r"\{x \mid x > 2\}", True),
        (r"(2,\infty)", r"\{x : x \ge 2\}", False),
        ("17", r"\underline{17}", True),
        ("17", r"\color{red}{17}", True),
        (r"30^\circ", r"\frac{\pi}{6}", False),
        (r"\pm 6", "6 or -6", True),
        ("6", "6 or -6", False),
        (r"(1,2),(3,4)", r"(3,4), (1,2)", True),
        (r"(1,2),(3,4)", r"(3,4), (2,1)", False),
        (r"\frac{x+1}{2}", "(x+1)/2", True),
        (r"\frac{x+1}{2}", "x+1/2", False),
        (r"3\frac{1}{2}", r"3\cdot\frac{1}{2}", False),
        ("8", "(2)(4)", True),
        ("5", r"5 \pm 0.1", False),
        (r"\text{no solution}", r"\text{No solution}", True),
    ],
    "more relations, units and bases": [
        ("(-1,1)", "|x|<1", True),
        ("(-1,1)", r"|x|\le 1", False),
        (r"(-\infty,-1)\cup(5,\infty)", "3<|x-2|", True),
        ("[2,5)", r"x\ge 2 \text{ and } x<5", True),
        ("[2,5)", "x≥2 and x<5", True),
        (r"(-\infty,2)\cup(5,\infty)", "x<2 and x>5", False),
        (r"(-\infty,2)\cup(5,\infty)", "x<2 or x>5", True),
        (r"x\ne 2 \text{ and } x\ne 3", r"x\neq 3 and x\neq 2", True),
        (r"(2,\infty)", "x>2, x∈ℝ", True),
        ("AB_{16}", "ab_{16}", True),
        ("AB_{16}", "ac_{16}", False),
        ("a_{1}", "b_1", False),
        ("1011_2", r"1011\text{ in base two}", True),
        ("1011_2", "1011 (base ten)", False),
        ("5", "5 Ω", True),
        ("5", r"5\,\mathrm{k\Omega}", True),
        ("5", r"5\,\mu\text{m}", True),
        (r"5 \text{ mm}", "5 µm", False),
        (r"\frac{5}{2}", r"\frac{5\text{ km}}{2}", True),
    ],
}
"""Kind -> (gold answer, answer in a box, whether it is right)."""


@pytest.fixture(scope="module")
def grader():
    with Grader(limit_s=6.0) as shared:
        yield shared


@pytest.mark.parametrize(
    ("gold", "answer", "right"), [pytest.param(*row, id=f"{kind}-{i}") for kind, rows in MATHS.items() for i, row in enumerate(rows)]
)
def test_mathematical_answers(grader, gold, answer, right):
    verdict = grader.grade("math", gold, rf"So it is $\boxed{{{answer}}}$.")
    assert verdict.correct is right and verdict.finished, verdict


@pytest.mark.parametrize(
    ("kind", "gold", "text", "right"),
    [
        ("number", "8", "#### 8 and a half miles", False),
        ("number", "8.5", "#### 8 and a half miles", True),
        ("number", "8", "#### 8 billion", False),
        ("number", "8000000000", "#### 8 billion", True),
        ("number", "8", "#### minus 8", False),
        ("number", "-8", "The answer is negative 8.", True),
        ("number", "8", "The answer is at least 8 cups.", False),
        ("number", "8", "#### 8 feet 3 inches", False),
        ("number", "8", "#### 8 hours and ten minutes", False),
        ("number", "8", "#### 8 boys and girls", True),
        ("number", "8", "#### 8 m/s", True),
        ("number", "8", "#### 8 m^2", True),
        ("number", "8", "#### £8", True),
        ("number", "8", "#### $8/hour", True),
        ("number", "8", "#### 8th", True),
        ("number", "8", "#### 8 to 9", False),
        ("number", "8", "#### over 8", False),
        ("number", "8", "#### 8 left over", True),
        ("number", "8", "#### 8 less than 20", False),
        ("number", "8", "#### AU$8 a day", True),
        ("number", "8", "The answer is **$8.00**.", True),
        ("number", "8", "#### 8°F", True),
        ("number", "2.75", "#### 2¾ cups", True),
        ("number", "2.75", "#### 2 3/4 cups", True),
        ("number", "24000", "#### 24 000", True),
        ("number", "24000", r"#### 2.4 \times 10^4", True),
        ("number", "24000", "#### 2.4e4", True),
        ("number", "8", "#### 8!", False),
        ("number", "8", r"\boxed{x + y}, as asked.\n#### 8", True),
        ("choice", "B", r"Hence \boxed{E = mc^2}.\n\n**Answer: B**", True),
        ("choice", "B", r"\boxed{B}, since \boxed{E = mc^2}", True),
        ("choice", "B", r"Hence \boxed{E = mc^2}.", False),
        ("choice", "B", "#### [B]", True),
        ("choice", "B", "(B)", True),
        ("choice", "B", "B", True),
        ("choice", "B", "Bananas are a fruit", False),
        ("yesno", "no", "No.", True),
        ("yesno", "no", "No, wait. Let us look at what a whale eats first.", False),
        ("number", "8", "<think>It is 9.</think>\n\n8", True),
        ("number", "8", "€8", True),
        ("number", "8", "Let me see: 8", False),
        ("math", "j", "#### j", True),
        ("math", r"\frac{2}{5}", r"$\frac25$", True),
        ("math", "4", r"It is \boxed{4}. The \boxed command was asked for.", True),
        ("math", "4", r"It is \boxed 4.", True),
        ("math", "4, 6", r"$x = \boxed{4}$ or $x = \boxed{6}$", True),
        ("math", "4, 6, 9", r"\(\boxed{4}\), \(\boxed{6}\), and \(\boxed{9}\)", True),
        ("math", "6", r"First \boxed{4}. Then \boxed{6}.", True),
        ("math", "6", r"It is \boxed{4} or \boxed{6}.", False),
        ("math", "6", r"\boxed{6}, \boxed{6}", True),
        ("math", "6", "<think>It is \\boxed{5}.</think> It is \\boxed{6}.", True),
        ("number", "4", "The answer is 4 times as many.", False),
        ("number", "4", "The answer is 4 times.", True),
        ("choice", "C", "The answer is (C) is wrong, so D", False),
        ("choice", "C", "The answer is (C), which is right.", True),
    ],
)
def test_stated_answers(grader, kind, gold, text, right):
    verdict = grader.grade(kind, gold, text)
    assert verdict.correct is right, verdict


decimals = st.decimals(min_value=-(10**6), max_value=10**6, places=3, allow_nan=False)


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_a_fraction_equals_itself_in_every_spelling_and_no_neighbour(top, bottom):
    gold, value = rf"\frac{{{top}}}{{{bottom}}}", Fraction(top, bottom)
    for answer in (
        f"{top}/{bottom}",
        rf"\dfrac{{{value.numerator}}}{{{value.denominator}}}",
        rf"{top}/{bottom} \text{{ cm}}",
        f"x = {value}",
    ):
        assert compare_without_algebra(gold, answer) == (True, "exact number") or compare_without_algebra(gold, answer) == (
            True,
            "equal text",
        )
    for other in (
        f"{top + 1}/{bottom}",
        f"{-top or 1}/{bottom}",
        rf"\frac{{{top}}}{{{bottom}}} \text{{ million}}",
        rf"\text{{at least }} {gold}",
    ):
        compared = compare_without_algebra(gold, other)
        assert compared is None or not compared[0] or value == 0


@settings(deadline=None)
@given(decimals)
def test_a_decimal_in_every_spelling(value):
    gold = f"{value:f}"
    for answer in (
        rf"\${value:,}",
        f"{value} €",
        f"{value:,} km/h",
        rf"{value} \times 10^0",
        f"{value}e0",
        f"{value}000",
        f"{value:f}".replace("-", "−"),
    ):
        compared = compare_without_algebra(gold, answer)
        assert compared and compared[0], answer


@settings(deadline=None)
@given(st.integers(1, 6), st.text("0123456789", min_size=1, max_size=6), st.text("0123456789", max_size=4), st.integers(0, 99))
def test_a_repeating_decimal_is_its_fraction(repeats, block, start, whole):
    value = whole + (Fraction(int(start or "0")) + Fraction(int(block), 10 ** len(block) - 1)) / 10 ** len(start)
    gold = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    for answer in (rf"{whole}.{start}\overline{{{block * repeats}}}", rf"{whole}.{start}({block})"):
        compared = compare_without_algebra(gold, answer)
        assert compared and compared[0], answer


PIECES = [
    "\\frac{",
    "}",
    "{",
    "1",
    "2",
    "x",
    "^",
    "_",
    "(",
    ")",
    "[",
    ",",
    "=",
    "<",
    "\\in ",
    "\\cup ",
    "\\pm ",
    "|",
    "!",
    " ",
    "\\text{",
    "or",
]


@settings(max_examples=40, deadline=None)
@given(text=st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_answer_gets_a_verdict(grader, text):
    grader.grade("math", "1", f"\\boxed{{{text}}}")


CASES = pytest.mark.skipif("STIR_CASES_ROOT" not in os.environ, reason="STIR_CASES_ROOT is not set (CI sets it)")


@CASES
def test_every_case_gets_its_verdict(grader):
    lines = (Path(os.environ["STIR_CASES_ROOT"]) / "grading.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines if line]
    verdicts = [grader.grade(case["kind"], case["gold"], case["answer"]) for case in cases]
    wrong = [
        (case, verdict)
        for case, verdict in zip(cases, verdicts, strict=True)
        if (verdict.correct, verdict.finished) != (case["correct"], case.get("finished", verdict.finished))
    ]
    assert cases and not wrong
