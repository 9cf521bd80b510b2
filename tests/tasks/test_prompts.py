"""Prompt templates, word for word."""

import pytest

from stir_core.errors import DataError
from stir_core.records import Problem
from stir_core.tasks.prompts import TEMPLATE_OF, TEMPLATES, render


def problem(**changes):
    fields = {"id": "t/s/1", "task": "t", "split": "s", "question": "Ann has 2 pens.\nHow many pens?", "answer": "2", "kind": "number"}
    return Problem(**{**fields, **changes})


def test_hash_is_the_published_prompt():
    assert render(problem()) == (
        "Solve the following problem step by step.\nYou should show intermediate steps.\n"
        "Return the final numeric answer on the last line in the format:\n#### <answer>\n\n"
        "Problem:\nAnn has 2 pens.\nHow many pens?\n"
    )


def test_options_are_lettered():
    text = render(problem(kind="choice", answer="A", choices=("red", "blue")))
    assert text.endswith("Question:\nAnn has 2 pens.\nHow many pens?\n\nOptions:\nA. red\nB. blue\n")
    assert "#### <letter>" in text


@pytest.mark.parametrize(("kind", "name"), [("number", "hash"), ("math", "boxed"), ("choice", "choice"), ("yesno", "yesno")])
def test_auto_takes_the_template_of_the_kind(kind, name):
    assert TEMPLATE_OF[kind] == name
    assert render(problem(kind=kind)) == render(problem(kind=kind), name)


def test_every_template_holds_the_question_and_no_braces_are_lost():
    tricky = problem(question="Let {x} be in \\boxed{y}.")
    assert all("Let {x} be in \\boxed{y}." in render(tricky, name) for name in TEMPLATES)
    assert "\\boxed{}" in render(problem(), "boxed")


def test_unknown_template():
    with pytest.raises(DataError, match=r"prompt template 'hsah' is not known: take auto or one of hash, boxed"):
        render(problem(), "hsah")
