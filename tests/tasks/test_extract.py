"""What counts as a stated answer."""

import time
import tracemalloc
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stir_core.tasks.extract import boxes, extract

BALANCED = st.recursive(
    st.text(alphabet="ab1 ,", max_size=5),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: "{" + "".join(parts) + "}"),
    max_leaves=6,
)


def stated(kind, text, choices=()):
    found = extract(kind, text, choices)
    return None if found is None else found.text


@given(st.lists(BALANCED, min_size=1, max_size=4), st.text(alphabet="xy ", max_size=5))
def test_balanced_boxes_come_back_in_order(contents, between):
    assert boxes(between.join(f"\\boxed{{{content}}}" for content in contents)) == contents


@given(st.text(alphabet="\\boxed{}1 #$\n", max_size=80))
def test_any_text_can_be_read(text):
    for kind in ("number", "math", "choice", "yesno"):
        extract(kind, text, ("a", "b"))


def test_boxes_nested_open_and_escaped():
    assert boxes(r"\boxed{12 and \boxed{13}") == ["13"]
    assert boxes(r"\boxed{\{1,2\}}") == [r"\{1,2\}"]
    assert boxes(r"\boxed{12") == []
    assert boxes(r"so \boxed 5.") == ["5."]
    assert boxes(r"\boxed{1, \boxed{2}} and \boxed{3}") == [r"1, \boxed{2}", "3"], "one inside another is a part of its content"
    assert stated("choice", r"\boxed{it says \boxed{B}}") == "B"


def peak(read):
    """Bytes that a call holds at most."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_for_nested_boxes_grows_with_the_length_of_the_text():
    """Copying the content of each box took 1.6 GB for the longer of these texts."""
    short, long = ("\\boxed{" * n + "1" + "}" * n for n in (5_000, 20_000))
    for read in (boxes, lambda text: extract("math", text), lambda text: extract("choice", text, ("a", "b"))):
        held = peak(partial(read, long))
        assert held < 30 * len(long)
        assert held < 6 * peak(partial(read, short))


def test_the_space_between_two_boxes_may_be_long():
    gap = " " * 20_000
    assert stated("math", rf"\boxed{{1}}{gap},{gap}\boxed{{2}}") == "1, 2"
    assert stated("math", rf"\boxed{{1}}{gap}\boxed{{2}}") == "2"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{12}, no: \boxed{13}", "13"),
        (r"#### 5 but \boxed{6}", "6"),
        (r"put it in \boxed{}. #### 7", "7"),
        ("The answer is 4.\n#### 5\nThe answer is 6.", "5"),
        ("#### 3\n\n#### 4", "4"),
        ("#### 18 dollars", "18"),
        ("#### $1,200.", "1,200"),
        ("#### 5 + 3 = 8", "8"),
        ("#### **18**", "18"),
        ("#### <18>", "18"),
        ("####\n18", "18"),
        ("#### 50%", "50"),
        ("#### −5", "-5"),
        ('in the correct format such as "#### 6".', "6"),
        ("#### The answer is 12.", "12"),
        ("#### Lily has 18 apples", "18"),
        ("**Answer:** 18", "18"),
        ("The final answer is: 13", "13"),
        ("The final answer is 4 (Ben has 4 coins).", "4"),
        ("so the answer is 20 - 15 = 3 pens.", "3"),
        ("The answer is 9 because 4 + 5 = 9.", "9"),
        ("The answer is $18.", "18"),
        ("Answer:\n\n18", "18"),
    ],
)
def test_numbers(text, answer):
    assert stated("number", text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "Let me try n = 204",
        "She has 12 apples left.",
        "#### <answer>",
        "#### [answer]",
        "#### Step 3: add them",
        "Return it in the format:\n#### <answer>\n",
        r"The answer is \boxed{12",
        r"\boxed{}",
        "The answer is 7 + 2 =",
        "The answer is not 5.",
        "The answer is the sum of 5 and 3.",
        "The answer is in the last line",
        "Answer:\n1. Start with 18 and add 3.",
        "",
    ],
)
def test_no_number_is_stated(text):
    assert extract("number", text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is $\\frac{1}{2}$ since $2 > 1$.", "\\frac{1}{2}"),
        ("The answers are $1$ and $2$.", "1,2"),
        ("The final answer is\n\\[ x^2 \\]", "x^2"),
        ("The answer is Evelyn.", "Evelyn"),
        ("#### $x = 3$.", "x = 3"),
        ("The answer is $\\$ 139$.", "139"),
    ],
)
def test_maths(text, answer):
    assert stated("math", text) == answer


@pytest.mark.parametrize(
    "text", ["the answer is that we have to look again", "#### Step 2", "#### Finding the area", "x = 5, so we are done"]
)
def test_sentences_are_no_mathematical_answer(text):
    assert extract("math", text) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{C}", "C"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{c}", "C"),
        ("A reasonable choice is this one.\n#### C", "C"),
        ("#### c", "C"),
        ("The answer is (C)", "C"),
        ("Answer: C", "C"),
        ("The correct answer is option C.", "C"),
        ("The best choice is C because it fits.", "C"),
        ("Answer: (B) fish", "B"),
        ("#### B. fish", "B"),
        ("#### deep sea fish", "A"),
        (r"\boxed{\text{Salmon.}}", "B"),
        ("#### Cc", "D"),
    ],
)
def test_letters(text, letter):
    assert stated("choice", text, ("Deep sea fish", "salmon", "CC", "Cc", "x", "x")) == letter


@pytest.mark.parametrize(
    "text", ["The answer is A reasonable one", "the answer is a", "The answer is (A) or (B)", "Let us look at option C", "#### x or y"]
)
def test_no_letter_is_stated(text):
    assert extract("choice", text, ("fish", "salmon", "x")) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### yes", "yes"),
        (r"\boxed{\text{False}}", "no"),
        ("So the answer is **no**.", "no"),
        ("#### No, it is not", "no"),
        ("Answer: true", "yes"),
    ],
)
def test_yes_and_no(text, answer):
    assert stated("yesno", text) == answer


def test_not_is_not_no():
    assert extract("yesno", "The answer is not known.") is None


@pytest.mark.parametrize("piece", [r"\boxed{", "#### ", "#### 5\n", "the answer is ", "the answer is $", "\\", "**", "{", "answer: \n"])
def test_a_text_that_repeats_itself_takes_no_time(piece):
    text = piece * (100_000 // len(piece))
    start = time.process_time()
    for kind in ("number", "math", "choice", "yesno"):
        extract(kind, text, ("a", "b"))
    assert time.process_time() - start < 5
