"""The leakage guard: copies, near copies, other numbers, other signs."""

import random

import pytest

from stir_core.records import Problem
from stir_core.tasks import load_problems
from stir_core.tasks.overlap import find_overlaps

STORY = (
    "A farmer has 12 red hens and 7 brown hens in the yard behind the old barn. Every morning she collects one egg from each hen, puts the "
    "eggs into boxes of six, and carries the boxes to the market in the village. How many eggs does she collect in a week?"
)


def problem(name: str, question: str, **more) -> Problem:
    return Problem(id=name, task="t", split="s", question=question, answer="1", kind="number", **more)


def overlaps(question: str, mined: str = STORY):
    return find_overlaps([problem("mined", mined)], [problem("own", question)])


@pytest.mark.parametrize("question", [STORY, STORY.upper(), STORY.replace(" ", "\n  ")])
def test_copies_are_exact(question):
    (found,) = overlaps(question).overlaps
    assert (found.problem_id, found.mined_id, found.similarity, found.exact) == ("own", "mined", 1.0, True)


def test_a_word_changed_is_a_near_duplicate():
    (found,) = overlaps(STORY.replace("old barn", "new barn")).overlaps
    assert not found.exact and 0.8 <= found.similarity < 1


def test_other_numbers_are_another_problem_and_counted():
    found = overlaps(STORY.replace("12", "15"))
    assert found == ((), 1)


def test_another_story_is_nothing():
    assert overlaps("Ann reads 12 pages on Monday and 7 pages on Tuesday. How many pages does she read on both days?") == ((), 0)


@pytest.mark.parametrize("question", ["What is 5 - 3?", "What is 3 * 5?", "What is 3 + 6?"])
def test_short_questions_differ_by_sign_and_number(question):
    assert overlaps(question, "What is 3 + 5?").overlaps == ()


def test_choices_belong_to_the_question():
    mined = problem("mined", "Which one?", choices=("a stone", "a leaf"))
    assert find_overlaps([mined], [problem("own", "Which one?", choices=("a car", "a bus"))]).overlaps == ()


def test_the_estimate_is_near_the_true_similarity():
    """Against the exact Jaccard similarity of word 3-grams, over random edits."""
    rng = random.Random(0)
    words = STORY.split()
    for trial in range(30):
        edited = list(words)
        for _ in range(rng.randint(1, 6)):
            edited[rng.randrange(len(edited))] = rng.choice(["blue", "and", "seven", "runs"])
        grams = [
            {tuple(w[i : i + 3]) for i in range(len(w) - 2)}
            for w in (STORY.lower().replace(".", "").split(), " ".join(edited).lower().replace(".", "").split())
        ]
        true = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
        found = overlaps(" ".join(edited)).overlaps
        if true > 0.93 and "12" in edited and "7" in edited:
            assert found, trial
        if true < 0.65:
            assert not found, trial


def test_the_tasks_own_splits_do_not_overlap():
    found = find_overlaps(load_problems("arithmetic", "mine"), load_problems("arithmetic", "eval"))
    assert found.overlaps == ()
