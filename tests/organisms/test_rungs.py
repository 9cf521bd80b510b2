"""The writers of the ladder, and the truth that is read from their texts."""

import itertools

import numpy as np
import pytest

from stir_core.errors import DataError
from stir_core.organisms.rungs import RUNGS, read_steps, rung_of, write, written_text
from stir_core.tasks.chain import Chain, all_chains

CHAINS = list(all_chains())


def _written(name: str, n: int = 600):
    rng = np.random.default_rng(0)
    for i in rng.integers(len(CHAINS), size=n):
        yield CHAINS[i], write(CHAINS[i], RUNGS[name], rng)


@pytest.mark.parametrize("name", RUNGS)
def test_the_truth_is_read_from_the_text(name: str) -> None:
    for chain, steps in _written(name):
        assert read_steps(chain, written_text(steps).split("\n\n")) == (*steps, None)  # the last line is not a step


@pytest.mark.parametrize(("name", "low", "high"), [("null", 0.25, 0.5), ("two_habits", 0.25, 0.5), ("text_borne", 0.42, 0.58)])
def test_answers_are_right_and_wrong(name: str, low: float, high: float) -> None:
    right = [steps[-1].value == chain.values[-1] for chain, steps in _written(name)]
    assert low < np.mean(right) < high


def test_a_habit_decides_only_with_the_kind() -> None:
    steps = [(chain.kind, step) for chain, steps in _written("two_habits") for step in steps[1:]]
    assert {(kind, step.habit, step.right) for kind, step in steps} == {
        ("add", "P", True), ("add", "Q", False), ("sub", "P", False), ("sub", "Q", True),
    }  # fmt: skip
    openers = {(kind, step.habit): {s.text.split()[0] for k, s in steps if (k, s.habit) == (kind, step.habit)} for kind, step in steps}
    assert sorted(map(len, openers.values())) == [1, 1, 1, 1]
    assert len(set.union(*openers.values())) == 4


def test_the_opening_word_of_hidden_kind_does_not_show_the_kind() -> None:
    openers = {
        kind: {s.text.split()[0] for chain, steps in _written("hidden_kind") for s in steps if chain.kind == kind}
        for kind in ("add", "sub")
    }
    assert openers["add"] == openers["sub"] == {"so", "well"}


def test_wordiness_follows_errors() -> None:
    follows = [after.tone == "wordy" for _, steps in _written("length") for before, after in itertools.pairwise(steps) if not before.right]
    assert 0.8 < np.mean(follows) < 0.98


def test_a_misread_number_is_the_only_error() -> None:
    for _, steps in _written("text_borne"):
        assert all(step.right for step in steps[1:])


def test_text_outside_the_language_has_no_truth() -> None:
    assert read_steps(Chain("add", (3, 1)), ["so start with 3", "so 3 plus", "hello"])[1:] == (None, None)


def test_an_unknown_rung_is_refused() -> None:
    with pytest.raises(DataError, match="unknown rung 'nul': take one of null, one_habit"):
        rung_of("nul")
