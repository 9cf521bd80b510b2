"""The leakage guard: copies, near copies, other numbers, other signs."""

import random
import re

import pytest

from stir_core.records import Problem
from stir_core.tasks import load_problems
from stir_core.tasks.overlap import NEAR, find_overlaps

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


def grams(question: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", question.lower())
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def test_every_edited_copy_is_found():
    """Against the Jaccard similarity of every pair, over stories with one to four words changed: no copy from 0.8 on is missed."""
    rng = random.Random(0)
    vocabulary = [f"{a}{b}" for a in ("ba", "ko", "mi", "ru", "te") for b in ("lan", "mer", "nix", "pol", "sut")]
    stories = [" ".join(rng.choice(vocabulary) for _ in range(rng.randint(20, 60))) for _ in range(300)]
    mined = [problem(f"m{i}", story) for i, story in enumerate(stories)]
    edited = []
    for story in stories:
        words = story.split()
        for _ in range(rng.randint(1, 4)):
            words[rng.randrange(len(words))] = rng.choice(["blue", "and", "seven", "runs"])
        edited.append(problem(f"e{len(edited)}", " ".join(words)))
    expected, sets = {}, {each.id: grams(each.question) for each in (*mined, *edited)}
    for own in edited:
        true = [(len(sets[own.id] & sets[m.id]) / len(sets[own.id] | sets[m.id]), m.id) for m in mined]
        if max(true)[0] >= NEAR:
            expected[own.id] = max(true)
    found = {leak.problem_id: (leak.similarity, leak.mined_id) for leak in find_overlaps(mined, edited).overlaps}
    assert found == expected and 50 < len(found) < 250


def test_nothing_is_compared_where_one_side_is_empty():
    assert find_overlaps([], [problem("own", STORY)]) == find_overlaps([problem("mined", STORY)], []) == ((), 0)


def test_the_tasks_own_splits_do_not_overlap():
    found = find_overlaps(load_problems("arithmetic", "mine"), load_problems("arithmetic", "eval"))
    assert found.overlaps == ()
