"""Splitting an answer into thinking and final part, and grading the final part alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stir_core.tasks.extract import extract
from stir_core.tasks.grading import Grader
from stir_core.tasks.thinking import TAGS, split_thinking

HARMONY = "<|channel|>analysis<|message|>Is it 4?<|end|><|start|>assistant<|channel|>final<|message|>It is 5.<|return|>"


@pytest.mark.parametrize(
    ("text", "thinking", "final"),
    [
        ("It is 5.", "", "It is 5."),
        ("<think>Is it 4?</think>\n\nIt is 5.", "Is it 4?", "\n\nIt is 5."),
        ("\n<think>\nIs it 4?\n</think>It is 5.", "\nIs it 4?\n", "It is 5."),
        ("Is it 4?</think>It is 5.", "Is it 4?", "It is 5."),
        ("[THINK]Is it 4?[/THINK]It is 5.", "Is it 4?", "It is 5."),
        (HARMONY, "Is it 4?<|end|><|start|>assistant", "It is 5.<|return|>"),
        ("<|channel|>final<|message|>It is 5.", "", "It is 5."),
        ("<think>Is it 4?", "Is it 4?", None),
        ("<think>a</think>b<think>c</think>d", "a</think>b<think>c", "d"),
        ("<think>a</think>b<think>c", "a</think>b<think>c", None),
        ("", "", ""),
    ],
)
def test_parts(text, thinking, final):
    assert split_thinking(text) == (thinking, final)


def test_a_block_that_the_prompt_opened():
    assert split_thinking("Is it 4?", opened=True) == ("Is it 4?", None)
    assert split_thinking("Is it 4?</think>No.", opened=True) == ("Is it 4?", "No.")


def test_tags_of_ones_own():
    assert split_thinking("<r>Is it 4?</r>No. <think>", [("<r>", "</r>")]) == ("Is it 4?", "No. <think>")


@given(st.lists(st.sampled_from([*(tag for pair in TAGS for tag in pair), "a", "\n", "<", "]"])).map("".join))
def test_the_final_part_is_the_end_of_the_text_and_holds_no_tag(text):
    final = split_thinking(text).final
    if final is not None:
        assert text.endswith(final) and not any(tag in final for pair in TAGS for tag in pair)


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_only_the_final_part_is_an_answer(opening, closing):
    inside = f"{opening}#### 4? \\boxed{{4}}? The answer is 4."
    assert extract("number", inside) is None
    found = extract("number", f"{inside}{closing}\n\nThe answer is 5.")
    assert found is not None and found.text == "5"
    with Grader() as grader:
        verdict = grader.grade("number", "4", inside)
    assert not verdict.correct and not verdict.finished and verdict.reason == "the thinking was not closed, so no final answer was stated"
