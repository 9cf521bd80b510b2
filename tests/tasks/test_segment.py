"""Step segmentation: nothing is lost, and boundaries in tokens equal the definition, also where a character spans tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stir_core.errors import DataError
from stir_core.tasks.segment import SEGMENTERS, StepScanner, boundaries, count_steps, register_segmenter, split_steps


def decode_bytes(ids):
    """A byte-level tokenizer's decode: one id a byte, broken characters as replacement signs."""
    return bytes(ids).decode("utf-8", errors="replace")


PIECES = ["a", "\n", "\n\n", ".\n", "\n\n\n", "\n\n\n\n", "", "é", "long piece "]


def decode_pieces(ids):
    return "".join(PIECES[i] for i in ids)


def by_definition(ids, decode, delimiter):
    """The definition, decoding the whole step every time."""
    found, start = [], 0
    for i in range(len(ids)):
        if delimiter in decode(ids[start : i + 1]):
            found.append(i + 1)
            start = i + 1
    return tuple(found)


@given(st.text(alphabet="a\n.", max_size=40), st.sampled_from(["\n\n", "\n", ".\n", "aa"]))
def test_steps_join_to_the_text(text, delimiter):
    steps = split_steps(text, delimiter)
    assert "".join(steps) == text
    assert all(step.endswith(delimiter) and delimiter not in step[: -len(delimiter)] for step in steps[:-1])
    assert "" not in steps


def test_steps_of_simple_texts():
    assert split_steps("") == []
    assert split_steps("a") == ["a"]
    assert split_steps("a\n\nb") == ["a\n\n", "b"]
    assert split_steps("a\n\nb\n\n") == ["a\n\n", "b\n\n"]


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=40), st.sampled_from(["\n\n", "\n", ".\n\n"]))
def test_boundaries_follow_the_definition(ids, delimiter):
    assert boundaries(ids, decode_pieces, delimiter) == by_definition(ids, decode_pieces, delimiter)


@given(st.text(alphabet="é\n€a", max_size=25), st.sampled_from(["\n\n", "é\n", "€"]))
def test_characters_that_span_tokens(text, delimiter):
    ids = list(text.encode())
    marks = boundaries(ids, decode_bytes, delimiter)
    assert marks == by_definition(ids, decode_bytes, delimiter)
    finished = [step for step in split_steps(text, delimiter) if step.endswith(delimiter)]
    assert [decode_bytes(ids[a:b]) for a, b in zip((0, *marks), marks, strict=False)] == finished


def test_a_token_with_several_delimiters_is_one_boundary():
    assert boundaries([0, 5, 0, 2], decode_pieces) == (2, 4)


def test_a_delimiter_does_not_straddle_steps():
    # "\n\n\n" is one token: its last newline belongs to the finished step, so one more newline does not finish another
    assert boundaries([0, 4, 1, 0], decode_pieces) == (2,)


def test_the_scanner_is_the_same_thing_token_by_token():
    ids = [0, 1, 1, 0, 3, 1, 2, 6, 1, 1]
    scanner = StepScanner(decode_pieces)
    assert tuple(i for i, token in enumerate(ids, start=1) if scanner.push(token)) == boundaries(ids, decode_pieces)


def test_a_token_costs_the_same_however_long_the_step():
    longest = 0

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return "x" * len(ids)

    boundaries(range(1000), decode)
    assert longest == len("\n\n") + 8


def test_an_empty_delimiter_is_refused():
    with pytest.raises(DataError, match="delimiter is empty"):
        split_steps("a", "")
    with pytest.raises(DataError, match="delimiter is empty"):
        StepScanner(decode_pieces, "")


@pytest.fixture
def nothing_stays():
    before = dict(SEGMENTERS)
    yield
    SEGMENTERS.clear()
    SEGMENTERS.update(before)


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=40), st.sampled_from(["\n\n", "\n", ".\n\n"]))
def test_a_segmenter_that_looks_for_a_text_is_that_delimiter(ids, delimiter):
    named = register_segmenter("looks", lambda step: delimiter in step)
    text = decode_pieces(ids)
    assert boundaries(ids, decode_pieces, named) == boundaries(ids, decode_pieces, delimiter)
    assert split_steps(text, named) == split_steps(text, delimiter)
    assert count_steps(text, named) == count_steps(text, delimiter) == text.count(delimiter)


def test_a_segmenter_is_asked_about_the_whole_step_and_no_other(nothing_stays):
    """Ends at the third "a" of a step, however far back the first one lies."""
    named = register_segmenter("third", lambda step: step.count("a") == 3)
    text = "a" + "-" * 60 + "aa|aaa|aa"
    assert split_steps(text, named) == ["a" + "-" * 60 + "aa", "|aaa", "|aa"]
    assert boundaries(list(text.encode()), decode_bytes, named) == (63, 67)
    assert count_steps(text, named) == 2


def test_an_unknown_or_endless_segmenter_is_refused(nothing_stays):
    with pytest.raises(DataError, match="segmenter:verse says, which is not registered here"):
        StepScanner(decode_bytes, "segmenter:verse")
    with pytest.raises(DataError, match="finishes a step that has no text"):
        register_segmenter("always", lambda step: True)
    with pytest.raises(DataError, match="'A b'"):
        register_segmenter("A b", lambda step: False)
    assert "segmenter:always" not in SEGMENTERS
