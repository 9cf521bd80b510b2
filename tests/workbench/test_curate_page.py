"""The Curate page: edits of ticked rows with a reason, notes, history, undo, versions, and the curated library."""

import shutil

import numpy as np
import pytest
from big_run import make_big_run  # pyright: ignore[reportMissingImports]
from fake_run import NASTY, make_fake_run  # pyright: ignore[reportMissingImports]
from page_reading import MOST_CALLS, calls_of_a_rerun  # pyright: ignore[reportMissingImports]

from stir_core.curation import make_edit, merged_id
from stir_core.store.curated import curated_library
from stir_core.store.curation import Curation
from stir_core.store.runs import Run
from tests.seals import renew, rewrite
from workbench.shared.curation_table import merge_line
from workbench.shared.facts import RunFacts

WHEN = "2026-11-21T17:33:14Z"


@pytest.fixture
def run(store, monkeypatch) -> Run:
    monkeypatch.setenv("STIR_USER", "Mara")
    return make_fake_run(store)


def table_key(app) -> str:
    """Key of the table of entries; it changes with the rows."""
    return next(element.proto.id.split("-")[-1] for element in app.main.dataframe if "curate_table" in element.proto.id)


def tick(app, *ids: str):
    table = app.dataframe[0].value
    rows = [list(table["entry"]).index(id_) for id_ in ids]
    app.session_state[table_key(app)] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    return app.run()


def texts(app) -> str:
    return " ".join(element.value for element in [*app.markdown, *app.caption])


def edit(app, kind: str, value: str | None = None, why: str = ""):
    app.segmented_control(key="curate_kind").set_value(kind).run()
    if value is not None:
        app.text_input(key=f"curate_value_{kind}").set_value(value)
    app.text_input(key="curate_why").set_value(why)
    app.button(key="curate_apply").click().run()
    assert not app.exception
    return app


def test_without_a_run_the_command_is_shown(open_page):
    app = open_page("curate")
    assert not app.exception and "stir run" in app.code[0].value


def test_selected_rows_are_edited_with_a_reason_that_the_history_shows(run, open_page):
    app = tick(open_page("curate"), "p0001c", "p0004c")
    edit(app, "tag", "drops the carry", "seen in both rollouts")
    lines = Curation.open(run).lines
    assert [(line.edit.kind, line.edit.entries, line.edit.value, line.edit.who, line.edit.why) for line in lines] == [
        ("tag", ("p0001c", "p0004c"), "drops the carry", "Mara", "seen in both rollouts")
    ]
    table = app.dataframe[0].value.set_index("entry")
    assert list(table.loc["p0004c", "tags"]) == ["drops the carry"] and list(table.loc["p0000c", "tags"]) == []
    history = app.dataframe[1].value
    assert list(history["why"]) == ["seen in both rollouts"] and list(history["who"]) == ["Mara"]
    assert app.text_input(key="curate_why").value == "", "a reason belongs to one edit"


def test_without_a_ticked_row_the_chosen_entry_is_edited(run, open_page):
    edit(open_page("curate", action="p0003c"), "star")
    assert Curation.open(run).state.starred() == ("p0003c",)


def test_an_exclusion_takes_the_null_entry_along_and_changes_the_library(run, open_page):
    app = edit(open_page("curate", action="p0002c"), "exclude", why="pure length")
    assert app.button(key="curate_apply").label == "Exclude 1", "one action is excluded, whatever goes along"
    state = Curation.open(run).state
    assert state.of("p0002c").excluded and state.of("p0002n").excluded
    numbers = app.dataframe[-1].value if "library" in app.dataframe[-1].value else app.dataframe[-2].value
    counts = dict(zip(numbers["library"], numbers["entries"], strict=True))
    assert counts["curated"] == counts["basis"] - 2
    app.toggle(key="curate_twins").set_value(False).run()
    edit(app, "reselect")
    assert not Curation.open(run).state.of("p0002c").excluded and Curation.open(run).state.of("p0002n").excluded


def test_a_refusal_is_one_line_and_keeps_what_was_typed(run, open_page):
    app = tick(open_page("curate"), "p0000c", "p0001c")
    edit(app, "merge", why="they look alike")
    assert len(app.error) == 1 and "control point m" in app.error[0].value.replace("\\", "")
    assert app.text_input(key="curate_why").value == "they look alike"
    assert len(Curation.open(run)) == 0


def test_a_merge_stands_in_the_table_and_its_lineage_below(run, open_page):
    app = edit(tick(open_page("curate"), "p0000c", "p0004c"), "merge", why="cosine 0.9")
    name = merged_id(["p0000c", "p0004c"])
    table = app.dataframe[0].value.set_index("entry")
    assert table.loc[name, "library"] == "merged" and table.loc["p0000c", "library"] == f"in {name}"
    lineage = next(frame.value for frame in app.dataframe if "mean of" in frame.value)
    assert list(lineage["entry"]) == [name] and "p0000c" in lineage["mean of"][0]
    quality = next(e.quality for e in curated_library(run, Curation.open(run)).entries if e.id == name)
    assert table.loc[name, "quality"] == pytest.approx(quality) == pytest.approx(lineage["quality"][0])
    app = edit(tick(app, name), "split")
    assert Curation.open(run).state.merges == {}


def test_a_note_is_text_and_is_saved_with_the_entry(run, open_page):
    app = open_page("curate", action="p0001c")
    app.text_area[0].set_value(NASTY + "\nsecond line").run()
    app.button(key="curate_save_note").click().run()
    assert not app.exception
    assert Curation.open(run).state.of("p0001c").note == NASTY + "\nsecond line"
    assert app.text_area[0].value == NASTY + "\nsecond line"
    assert not any(NASTY in element.value for element in [*app.markdown, *app.caption])


def test_an_undo_is_an_edit_and_versions_can_be_compared(run, open_page):
    app = edit(open_page("curate", action="p0001c"), "exclude", why="length")
    app.text_input(key="curate_undo_why").set_value("looked again")
    app.button(key="curate_undo").click().run()
    assert not app.exception
    lines = Curation.open(run).lines
    assert (
        [line.edit.kind for line in lines] == ["exclude", "reselect"] and lines[1].edit.undoes == 1 and lines[1].edit.why == "looked again"
    )
    assert "Versions 0 and 2 are equal." in texts(app)
    app.number_input(key="curate_to_2").set_value(1).run()
    difference = next(frame.value for frame in app.dataframe if "version 1" in frame.value)
    assert set(difference["entry"]) == {"p0001c", "p0001n"} and set(difference["version 1"]) == {"excluded"}


def test_filters_narrow_the_table_and_drop_the_selection(run, open_page):
    Curation.open(run).add(
        make_edit("star", ["p0005c"], who="a", when=WHEN),
        make_edit("tag", ["p0006c"], "t", who="a", when=WHEN),
        make_edit("include", ["p0006n"], who="a", when=WHEN),
    )
    app = tick(open_page("curate"), "p0000c", "p0001c")
    assert "2 selected" in texts(app)
    app.segmented_control(key="curate_list").set_value("starred").run()
    assert list(app.dataframe[0].value["entry"]) == ["p0005c"] and "no row is ticked" in texts(app)
    app.segmented_control(key="curate_list").set_value("all").run()
    app.selectbox(key="curate_tag").set_value("t").run()
    assert list(app.dataframe[0].value["entry"]) == ["p0006c"]


def test_the_actions_page_shows_what_was_judged(run, open_page):
    assert "library" not in open_page("actions").dataframe[0].value
    edits = (make_edit("tag", ["p0002c"], "t", who="a", when=WHEN), make_edit("exclude", ["p0003c"], who="a", when=WHEN))
    Curation.open(run).add(*edits)
    app = open_page("actions")
    table = app.dataframe[0].value.set_index("entry")
    assert not app.exception and list(table.loc["p0002c", "tags"]) == ["t"]
    assert (table.loc["p0003c", "library"], table.loc["p0002c", "library"]) == ("excluded", "in the basis")


def test_edits_of_other_entries_are_said_not_to_apply(run, open_page):
    Curation.open(run).add(make_edit("exclude", ["p0000c"], who="a", when=WHEN))
    lens = run.path / "actions" / "lens.jsonl"
    lens.write_text("".join(reversed(lens.read_text().splitlines(keepends=True))))
    renew(run.path / "actions")
    app = open_page("curate")
    assert not app.exception and "not applied: edit 1" in app.warning[0].value.replace("\\", "")
    assert list(app.dataframe[1].value["applies"]) == ["no"]


def test_a_broken_history_is_one_line(run, open_page):
    Curation.open(run).add(make_edit("star", ["p0000c"], who="a", when=WHEN))
    (run.path / "curation" / "edits.jsonl").write_text("")
    app = open_page("curate")
    assert not app.exception and "has 0 edits where 1 were made" in app.error[0].value.replace("\\", "")


def test_a_library_of_two_entries_and_a_run_without_a_basis(store, open_page):
    run = make_fake_run(store, upto="actions")
    rewrite(run, "actions", "entries.jsonl", run.entries()[:2])
    app = edit(open_page("curate"), "star")
    assert list(app.dataframe[0].value["entry"]) == ["p0000c"] and "not finished yet" in texts(app)


@pytest.mark.slow
def test_five_thousand_entries_with_a_thousand_edits_take_little_work(tmp_path_factory, store, open_page):
    run = make_big_run(store)
    ids = [entry.id for entry in run.entries()]
    Curation.open(run).add(*(make_edit("tag", ids[i : i + 50], f"t{i % 7}", who="a", when=WHEN) for i in range(1000)))
    app = open_page("curate", run="big")
    assert not app.exception
    assert calls_of_a_rerun(app) < MOST_CALLS
    shutil.rmtree(run.path)


def test_a_merge_says_first_how_alike_its_members_are(run: Run) -> None:
    facts = RunFacts(run)
    first = facts.entries[facts.action_ids[0]]
    alike = (entry for entry in facts.entries.values() if (entry.kind, entry.m, entry.layer) == (first.kind, first.m, first.layer))
    one, other = [entry.id for entry in alike][:2]
    rows = [facts.run.action_rows()[facts.entries[id_].action_row].astype(float) for id_ in (one, other)]
    norms = [float(np.linalg.norm(row)) for row in rows]
    line = merge_line(facts, [one, other])
    assert f"{rows[0] @ rows[1] / (norms[0] * norms[1]):+.2f}" in line and f"Norms {norms[0]:.1f}, {norms[1]:.1f}" in line
    after = Curation.open(run).add(make_edit("merge", [one, other], None, who="ann", when=WHEN, why=""))
    merged = next(entry for entry in curated_library(run, after).entries if entry.id not in facts.entries)
    assert f"their mean has {merged.action_norm:.1f}" in line
    assert "at least two" in merge_line(facts, [one])
