"""The ``stir curate`` command."""

import json

import pytest

from stir_core.cli import main
from stir_core.curation import merged_id
from stir_core.store.curation import Curation
from tests.curated_run import curated_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("STIR_USER", "Mara")
    return curated_run(tmp_path)


def stir(run, *words: str) -> int:
    return main(["curate", str(run.path), *words])


def test_edits_are_stored_with_author_and_reason_and_can_be_undone(run, capsys):
    assert stir(run, "star", "p0000c") == 0
    assert stir(run, "tag", "carry", "p0000c", "p0001c", "--why", "both drop the carry") == 0
    assert stir(run, "rename", "keep going", "p0000c") == 0
    assert stir(run, "exclude", "keep going") == 0, "a display name will do"
    state = Curation.open(run).state
    assert state.of("p0000c").starred and state.of("p0000c").excluded and state.tagged("carry") == ("p0000c", "p0001c")
    capsys.readouterr()
    assert stir(run, "history") == 0
    printed = capsys.readouterr().out
    assert "Mara" in printed and "both drop the carry" in printed and "tag carry: p0000c, p0001c" in printed
    assert stir(run, "undo") == 0 and "reselect: p0000c (takes back 4)" in capsys.readouterr().out
    assert stir(run, "diff", "0", "2") == 0 and "carry" in capsys.readouterr().out
    assert stir(run, "diff", "5", "5") == 0 and "are the same" in capsys.readouterr().out


def test_show_gives_the_curated_library_with_its_lineage(run, capsys):
    name = merged_id(["p0001c", "p0002c"])
    assert stir(run, "merge", "p0001c", "p0002c") == 0
    assert stir(run, "star", name) == 0
    capsys.readouterr()
    assert stir(run, "show", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    entry = next(entry for entry in shown["entries"] if entry["id"] == name)
    assert entry["origin"]["members"] == ["p0001c", "p0002c"] and sum(entry["origin"]["weights"]) == pytest.approx(1)
    assert shown["summary"]["entries"] == 11 and shown["summary"]["orphaned"] == 1 and shown["version"] == 2
    assert stir(run, "show") == 0 and "p0001c x 0.43 + p0002c x 0.57" in capsys.readouterr().out
    assert stir(run, "show", "--only", "starred", "--json") == 0
    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)["entries"]] == [name, "p0001n", "p0002n"]
    assert stir(run, "list", "--starred", "--json") == 0
    assert [entry["entry"] for entry in json.loads(capsys.readouterr().out)["entries"]] == [name]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["star", "p77c"], "no entry 'p77c'"),
        (["merge", "p0000c", "p0004c"], "control point m 1 and 2"),
        (["tag", "<b>", "p0000c"], "a tag of 1 to 48"),
        (["undo"], "the history is empty"),
        (["undo", "3"], "history is empty"),
        (["show", "--only", "starred"], "no entry of the library is starred"),
        (["diff", "0", "4"], "there is no version 4"),
    ],
)
def test_refusals_are_one_line_and_change_nothing(run, capsys, words, what):
    assert stir(run, *words) == 2
    printed = capsys.readouterr().err
    assert what in printed and len(printed.strip().splitlines()) == 1
    assert len(Curation.open(run)) == 0
