"""``stir whatif``: changes in the order given, and refusals before a model is loaded."""

import argparse
import json

import pytest

from stir_core.cli import main
from stir_core.commands import whatif
from stir_core.commands.console import Handler, with_common
from stir_core.records import Trace
from stir_core.store.runs import Run


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()

    def command(name: str, run: Handler, help: str, *common: str) -> argparse.ArgumentParser:
        return with_common(parser, *common)

    whatif.add(command)
    return parser.parse_args(["smollm2", "p", *words])


def test_options_after_each_at_belong_to_its_change() -> None:
    chain = parse("--at", "2", "--force", "p1c", "--alpha", "-0.5", "--at", "3", "--deny", "--then", "null", "--at", "4").chain
    assert chain == [{"m": 2, "to": "p1c", "alpha": -0.5}, {"m": 3, "to": "null", "then": "null"}, {"m": 4}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--force", "p1c", "--at", "2"], "write --at M or --at-token N before it"),
        (["--put", "x"], "write --at M or --at-token N before it"),
        (["--at-token", "0"], "tokens are counted from 1"),
        (["--at", "2", "--force", "p1c", "--deny"], "is complete already"),
        (["--at", "x"], "invalid int value"),
    ],
)
def test_invalid_options_are_refused(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    with pytest.raises(SystemExit):
        parse(*words)
    assert said in capsys.readouterr().err


def test_a_token_is_counted_from_one_and_completed_like_a_decision() -> None:
    chain = parse("--at-token", "9", "--put", " 12", "--seed", "3", "--at-token", "1", "--deny", "--then", "null").chain
    assert chain == [{"position": 8, "put": " 12", "seed": 3}, {"position": 0, "to": "null", "then": "null"}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say where the answer is taken up: --at M, a control point, or --at-token N, a token"),
        (["--at", "2", "--put", "x"], "--put 'x' needs the place of a token: begin the change with --at-token N instead of --at"),
        (["--at", "2", "--seed", "-4"], "--seed -4: input should be greater than or equal to 0"),
        (["--at", "2", "--rolls", "0"], "--rolls 0: give 1 to 10,000, all of which are decoded side by side"),
        (["--at", "2", "--rolls", "99999999"], "--rolls 99999999: give 1 to 10,000, all of which are decoded side by side"),
        (["--at", "2", "--seed", "1", "--rolls", "2"], "--rolls 2 takes the seeds 0 to 1: leave --seed out"),
    ],
)
def test_forks_are_refused_in_one_line_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(["whatif", "smollm2", "p", *words]) == 2
    assert capsys.readouterr().err == f"stir: {said}\n"


@pytest.mark.model
def test_a_tree_of_rolls_holds_the_roll_decoded_alone_and_a_token_is_forked(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.open("two_habits")
    trace = run.traces("steered")[0]

    def found(*words: str) -> dict:
        assert main(["whatif", "two_habits", trace.id, *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    tree = found("--at", "1", "--rolls", "6")
    alone = found("--at", "1", "--seed", "4")
    rolls = [Trace.model_validate(roll) for roll in tree["rolls"]]
    again = Trace.model_validate(alone["branches"][0]["trace"])
    assert (again.id, again.token_ids, again.verdict) == (rolls[4].id, rolls[4].token_ids, rolls[4].verdict)
    assert len({roll.token_ids for roll in rolls}) > 1
    same = found("--at-token", "9", "--put", f"id:{trace.token_ids[8]}")
    assert same["branches"][0]["trace"]["token_ids"] == list(trace.token_ids)
    for put, said in (("x", "the model has no token 'x'"), ("id:-1", "the model has no token 'id:-1'"), ("", "'' is no token: give one")):
        assert main(["whatif", "two_habits", trace.id, "--at-token", "9", f"--put={put}"]) == 2
        assert said in capsys.readouterr().err


def test_a_strength_without_an_action_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["whatif", "smollm2", "p", "--at", "2", "--deny", "--alpha", "1"]) == 2
    assert capsys.readouterr().err == "stir: --alpha 1 is the strength of an action: name one with --force\n"
