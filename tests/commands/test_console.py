"""What commands print is one line for one thing: nothing that a run, a bundle or a model wrote moves the cursor or forges a line."""

import ast
import json
import logging
from pathlib import Path

import pytest

from stir_core.commands import console
from stir_core.models.catalogue import LOG
from stir_core.records import Thinking
from stir_core.store.runs import Run

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "a\nb\r\x1b[2J\x07\x08\x9b1m\u2028\u202e\x7f z"
SHOWN = r"a\nb\r\x1b[2J\x07\x08\x9b1m\u2028\u202e\x7f z"


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that were printed; none of them has a control character."""
    lines = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    return lines


def test_each_argument_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.say(HOSTILE, "", Path("b\nc"))
    assert lines_of(capsys) == [SHOWN, "", r"b\nc"]


def test_a_row_of_a_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["entry", "note"], [["[red]p1", HOSTILE], ["p2", "b"]])
    head, first, second = lines_of(capsys)
    assert head.split() == ["entry", "note"] and "[red]p1" in first and SHOWN in first and "p2" in second


def test_json_says_the_same_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({HOSTILE: [HOSTILE, "ä ☃ 😀"]})
    lines = lines_of(capsys)
    assert json.loads("\n".join(lines)) == {HOSTILE: [HOSTILE, "ä ☃ 😀"]} and "ä ☃ 😀" in "".join(lines)


def test_an_answer_keeps_its_line_breaks_and_nothing_else(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    trace = next(each for each in Run.open("two_habits").traces() if any(step.decision.scored for step in each.steps))
    first, *rest = trace.steps
    scored = next(step for step in trace.steps if step.decision.scored)
    rows = tuple(row.model_copy(update={"entry_id": row.entry_id + "\x1b[2J"}) for row in scored.decision.scored)
    retrieved = tuple(entry.model_copy(update={"entry_id": entry.entry_id + "\x1b[2J"}) for entry in scored.evidence.retrieved)
    odd = scored.model_copy(
        update={
            "decision": scored.decision.model_copy(update={"scored": rows}),
            "evidence": scored.evidence.model_copy(update={"retrieved": retrieved}),
        }
    )
    first = first.model_copy(update={"text": f"one {HOSTILE}"})
    hostile = trace.model_copy(update={"steps": (first, *rest, odd), "thinking": Thinking(tokens=1, chars=5, closed=True)})
    console.print_traces(hostile, hostile)
    told = "\n".join(lines_of(capsys))
    assert "one a" in told and r"b\r\x1b[2J\x07\x08\x9b1m\u2028\u202e\x7f z" in told and r"\n" not in told
    assert r"\x1b[2J" in told.partition("gate at control point")[2]


def test_a_note_of_the_loader_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        LOG.warning("%s: unpacked %d %%", HOSTILE, 3)
    assert [record.getMessage() for record in caplog.records] == [f"{SHOWN}: unpacked 3 %"]


def test_commands_print_by_these_functions_alone() -> None:
    """A bare ``print`` would show what it is given as it is."""
    files = [ROOT / "stir_core" / "cli.py", *(ROOT / "stir_core" / "commands").glob("*.py")]
    assert len(files) > 20
    bare = [
        f"{file.name}:{node.lineno}"
        for file in files
        if file.name != "console.py"
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert bare == []
