"""The task ``chain``: every problem once, right answers, no content in two splits."""

import pytest

from stir_core.errors import DataError
from stir_core.tasks import Grader, load_problems, render, task_spec
from stir_core.tasks.chain import KINDS, LARGEST, Chain, all_chains, chain_of

SPLITS = task_spec("chain").splits


def test_every_problem_occurs_once_and_no_content_lies_in_two_splits() -> None:
    problems = [problem for split in SPLITS for problem in load_problems("chain", split)]
    assert len({problem.id for problem in problems}) == len({problem.question for problem in problems}) == len(list(all_chains()))
    contents = [{chain_of(problem.question).canonical for problem in load_problems("chain", split)} for split in SPLITS]
    assert sum(map(len, contents)) == len(set.union(*contents))
    assert min(map(len, contents)) > 200


def test_answers_are_computed_by_another_rule() -> None:
    for problem in load_problems("chain", "eval", n=300):
        kind, *words = problem.question.removesuffix(" ?").split(" ", 1)
        numbers = words[0].split(" , ")
        assert eval(("+" if kind == "add" else "-").join(numbers)) == int(problem.answer)
        assert problem.solution is not None
        with Grader() as grader:
            assert grader.judge(problem, problem.solution).correct


def test_values_stay_in_the_language() -> None:
    assert all(value > 0 for chain in all_chains() for value in chain.values)
    numbers = [{chain.numbers for chain in all_chains() if chain.kind == kind} for kind in KINDS]
    assert numbers[0] == numbers[1]  # no number tells the kind
    assert max(max(chain.values) + len(chain.numbers) - 1 for chain in all_chains()) == LARGEST


def test_levels_alternate_and_the_prompt_is_the_question_alone() -> None:
    problems = load_problems("chain", "mine", n=10)
    assert [problem.level for problem in problems].count("add") == 5
    assert render(problems[0]) == problems[0].question


def test_the_content_is_read_from_the_question() -> None:
    chain = Chain("sub", (15, 3, 2))
    assert chain.question == "sub 15 , 3 , 2 ?"
    assert chain_of(chain.question) == chain
    assert chain.values == (15, 12, 10)
    assert Chain("sub", (15, 2, 3)).canonical == chain.canonical != Chain("sub", (15, 2, 4)).canonical


@pytest.mark.parametrize("text", ["", "add", "add 3 ?", "mul 3 , 4 ?", "add 3 4 ?", "add 3 , x ?", "add 3 , 4"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="is not a chain: write a problem such as"):
        chain_of(text)
