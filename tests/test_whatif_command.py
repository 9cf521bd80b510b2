"""``stir whatif``: changes in the order given, and refusals before a model is loaded."""

import argparse

import pytest

from stir_core.cli import main
from stir_core.commands import whatif
from stir_core.commands.console import Handler, with_common


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
        (["--force", "p1c", "--at", "2"], "write --at M before it"),
        (["--at", "2", "--force", "p1c", "--deny"], "is complete already"),
        (["--at", "x"], "invalid int value"),
        ([], "--at"),
    ],
)
def test_invalid_options_are_refused(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    with pytest.raises(SystemExit):
        parse(*words)
    assert said in capsys.readouterr().err


def test_a_strength_without_an_action_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["whatif", "smollm2", "p", "--at", "2", "--deny", "--alpha", "1"]) == 2
    assert capsys.readouterr().err == "stir: --alpha 1 is the strength of an action: name one with --force\n"
