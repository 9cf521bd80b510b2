"""The synthetic task: exact answers, splits that cannot overlap, and a text that no seed changes."""

import re

import pytest

from stir_core.errors import DataError
from stir_core.tasks.arithmetic import LEVELS, SPLITS, arithmetic_problems, split_of
from stir_core.tasks.grading import Grader
from stir_core.tasks.segment import split_steps

ALL = [problem for split in SPLITS for problem in arithmetic_problems(split)]


def canonical(problem):
    """Operation and numbers, read back from the id."""
    return problem.id.rpartition(":")[2]


def evaluated(expression: str) -> int:
    """Value of a canonical content, computed apart from the code under test."""
    assert re.fullmatch(r"[\d+*/-]+", expression)
    total = 0
    for sign, term in re.findall(r"([-+]?)([^-+]+)", expression):
        first, operation, second = re.split(r"([*/])", term) if re.search(r"[*/]", term) else (term, "*", "1")
        value = int(first) * int(second) if operation == "*" else int(first) // int(second)
        total += -value if sign == "-" else value
    return total


def test_answers_are_exact_and_not_negative():
    for problem in ALL:
        assert int(problem.answer) == evaluated(canonical(problem)) >= 0


def test_every_number_of_the_content_is_in_the_question_and_no_other():
    for problem in ALL:
        assert sorted(re.findall(r"\d+", problem.question)) == sorted(re.findall(r"\d+", canonical(problem)))


def test_splits_share_no_content_whatever_the_wording():
    contents = {split: {canonical(problem) for problem in arithmetic_problems(split)} for split in SPLITS}
    assert not contents["train"] & contents["eval"]
    assert not contents["train"] & contents["validation"]
    assert not contents["validation"] & contents["eval"]
    assert all(split_of(content) == split for split in SPLITS for content in contents[split])


def test_the_same_sum_as_a_sum_and_as_a_story_lies_in_one_split():
    splits_of: dict[str, list[str]] = {}
    for problem in ALL:
        splits_of.setdefault(canonical(problem), []).append(problem.split)
    told_twice = [splits for splits in splits_of.values() if len(splits) > 1]
    assert told_twice and all(len(set(splits)) == 1 for splits in told_twice)


def test_no_question_occurs_twice():
    assert len({problem.question for problem in ALL}) == len(ALL) == len({problem.id for problem in ALL})


@pytest.mark.parametrize("split", SPLITS)
def test_every_level_has_problems_in_every_split(split):
    assert {problem.level for problem in arithmetic_problems(split)} == set(LEVELS)


def test_worked_solutions_are_right_and_have_steps():
    grader = Grader()
    for problem in ALL[::7]:
        assert problem.solution is not None
        assert len(split_steps(problem.solution)) >= 3
        assert grader.grade("number", problem.answer, problem.solution).correct
        for left, right in re.findall(r"([\d+*/ -]+) = (\d+)", problem.solution):
            assert evaluated(left.replace(" ", "")) == int(right)


def test_wording_varies():
    assert len({problem.question.split()[0] for problem in ALL}) > 10


def test_unknown_split():
    with pytest.raises(DataError, match=r"no split 'test': take one of train, validation, eval"):
        arithmetic_problems("test")
