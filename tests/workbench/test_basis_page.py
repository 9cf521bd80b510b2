"""The Basis page: what a lasso shows and tags, replay, selecting again, colours, and 5,000 entries in time."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from big_run import make_big_run
from fake_run import make_fake_run
from page_reading import MOST_CALLS, calls_of_a_rerun, clean, leaves, texts
from streamlit.testing.v1 import AppTest

from stir_core.store.curation import Curation
from workbench.basis import data as entry_columns
from workbench.basis import view_map as basis_map
from workbench.shared.facts import RunFacts

OpenPage = Callable[..., AppTest]
IDS = ["p0001c", "p0001n", "p0004c", "p0007n"]


def lassoed(open_page: OpenPage, ids: list[str], **query: str) -> AppTest:
    """The page as it is after a lasso."""
    app = clean(open_page("basis", **query))
    app.session_state["basis_lasso"] = ids
    return clean(app.run())


def frame_with(app: AppTest, column: str) -> pd.DataFrame:
    return next(frame.value for frame in app.dataframe if column in frame.value.columns)


def view(app: AppTest, name: str) -> AppTest:
    return clean(app.button_group(key="basis_view").set_value(name).run())


def metric(app: AppTest, label: str) -> str:
    return next(each.value for each in app.metric if each.label == label)


def test_a_lasso_becomes_a_table_a_summary_and_a_smaller_heatmap(open_page: OpenPage, store: Path, facts: RunFacts) -> None:
    make_fake_run(store)
    app = lassoed(open_page, [*IDS, "p9999c"])  # one of another run
    assert "4 entries in the lasso" in texts(app)
    assert list(frame_with(app, "umap 1")["entry"]) == IDS
    summed = frame_with(app, "median").set_index("column")
    quality = [facts.entries[i].quality for i in IDS]
    assert summed.loc["quality", "mean"] == pytest.approx(np.mean(quality))
    assert summed.loc["quality", "median"] == pytest.approx(np.median(quality))
    assert summed.loc["|v|", "n"] == 2  # null entries have no action
    assert "n = 4 keys in the lasso" in texts(app)
    app.button(key="basis_lasso_clear").click().run()
    assert "in the lasso" not in texts(clean(app)) and "n = 24 keys;" in texts(app)


def test_source_steps_are_searched_by_words(open_page: OpenPage, store: Path, facts: RunFacts) -> None:
    make_fake_run(store)
    texts_of = {}
    for id_, entry in facts.entries.items():
        sides = [facts.rollouts[entry.problem_id, k].text.split(facts.config.delimiter) for k in (*entry.positives, *entry.negatives)]
        texts_of[id_] = " ".join(step for steps in sides for step in steps[entry.m - 1 : entry.m + 1]).casefold()
    app = clean(open_page("basis", basis_search="CHECK again"))
    found = [id_ for id_, text in texts_of.items() if "check" in text and "again" in text]
    assert 0 < len(found) < len(facts.entries)
    assert list(frame_with(app, "umap 1")["entry"]) == found and f'{len(found)} entries with "CHECK again"' in texts(app)
    app.button(key="basis_lasso_clear").click().run()
    assert "entries with" not in texts(clean(app)) and app.text_input(key="basis_search").value == ""
    assert 'has the words "zebra"' in texts(clean(open_page("basis", basis_search="zebra")))


def test_a_neighbourhood_is_drawn_alone(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    app = clean(open_page("basis", basis_isolate="true", basis_search="check again"))
    ids = list(frame_with(app, "umap 1")["entry"])
    chosen = str(app.selectbox(key="action").value)
    assert f"n = {len({*ids, chosen})} entries by key of 24: the collected ones and the chosen one." in texts(app)
    figure = next(json.loads(element.proto.spec) for element in leaves(app.main) if element.type == "plotly_chart")
    drawn = [row[0] for trace in figure["data"] for row in trace.get("customdata", [])]
    assert sorted(drawn) == sorted({*ids, chosen})


def test_a_lasso_is_tagged_at_once(open_page: OpenPage, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STIR_USER", "reader")
    run = make_fake_run(store)
    app = lassoed(open_page, IDS)
    app.text_input(key="basis_tag").set_value("near the top")
    app.text_input(key="basis_tag_why").set_value("one cluster")
    app.button(key="basis_tag_apply").click().run()
    assert "4 entries tagged" in clean(app).success[0].value
    line = Curation.open(run).lines[-1].edit
    assert (line.kind, line.entries, line.value, line.why, line.who) == ("tag", tuple(IDS), "near the top", "one cluster", "reader")
    assert list(frame_with(app, "umap 1")["tags"]) == ["near the top"] * 4
    assert "tags" in app.selectbox(key="basis_colour").options
    app.text_input(key="basis_tag").set_value("<b>")
    app.button(key="basis_tag_apply").click().run()
    assert len(app.error) == 1 and "a tag of 1 to 48 letters" in app.error[0].value.replace("\\", "")
    assert app.text_input(key="basis_tag").value == "<b>" and len(Curation.open(run)) == 1


def test_what_the_browser_selects_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region collects, a click chooses and leaves the region alone, an emptied region is forgotten, an emptied click is not."""
    state: dict = {}
    monkeypatch.setattr(st, "session_state", state)

    def select(*ids: str, **region: list) -> None:
        state["basis_map"] = {"selection": {"points": [{"customdata": [i, 1]} for i in ids], "box": [], "lasso": [], **region}}
        basis_map.take_selection()

    select("a", "b", "c", lasso=[{"x": [0, 1, 1]}])
    assert state["basis_lasso"] == ["a", "b", "c"] and "action" not in state
    select("b")
    assert state["action"] == "b" and state["basis_lasso"] == ["a", "b", "c"]
    select()  # a second click on the same point
    assert state["action"] == "b" and state["basis_lasso"] == ["a", "b", "c"]
    select("c", box=[{"x": [0, 1]}])
    assert state["basis_lasso"] == ["c"]
    select()
    assert "basis_lasso" not in state


def test_every_column_colours_the_map(open_page: OpenPage, store: Path, facts: RunFacts) -> None:
    make_fake_run(store)
    offered = entry_columns.colourings(entry_columns.entry_columns(facts))
    assert {"m", "layer", "quality", "kind", "problem", "in the basis", "length cos", "perm. p", "pick", "controls"} <= set(offered)
    assert entry_columns.CHOSEN_KEY in offered
    app = clean(open_page("basis", basis_colour="perm. p"))
    assert app.selectbox(key="basis_colour").value == "perm. p"
    for column in (entry_columns.CHOSEN_KEY, "controls", "reachable"):
        clean(app.selectbox(key="basis_colour").select(column).run())
    cosines = entry_columns.cosines_to(facts, "p0003c", facts.ids)
    me = list(facts.entries).index("p0003c")
    assert cosines[entry_columns.CHOSEN_KEY].tolist() == pytest.approx(list(facts.unit_keys @ facts.unit_keys[me]))
    assert sum(value == value for value in cosines[entry_columns.CHOSEN_ACTION].tolist()) == 12
    assert all(value != value for value in entry_columns.cosines_to(facts, "p0003n", facts.ids)[entry_columns.CHOSEN_ACTION].tolist())


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([True, False], "category"),
        (["a", None], "category"),
        ([1, 2, 2], "ordered"),
        ([1.0, None, 4.0], "ordered"),
        ([0.1, 0.4], "sequential"),
        ([-0.1, None, 0.4], "signed"),
        (list(range(20)), "sequential"),
        ([None, None], "category"),
    ],
)
def test_columns_are_coloured_by_what_they_hold(values: list, scale: str) -> None:
    assert entry_columns.scale_of(values) == scale


def test_the_selection_is_replayed_pick_by_pick(open_page: OpenPage, store: Path) -> None:
    run = make_big_run(store, 160, width=24, budget=72)
    app = view(clean(open_page("basis")), "Replay")
    picks = run.picks()
    assert metric(app, "pick") == "72 of 72" and metric(app, "gain") == f"{picks[-1].gain:+.3f}"
    app.slider(key="basis_pick").set_value(60).run()
    app.button(key="basis_pick_back").click().run()
    assert metric(clean(app), "pick") == "59 of 72" and metric(app, "gain") == f"{picks[58].gain:+.3f}"
    parts = [float(metric(app, f"{part} part")) for part in ("quality", "log-det")]
    assert sum(parts) == pytest.approx(picks[58].gain, abs=2e-3)
    app.slider(key="basis_pick").set_value(2).run()
    assert "forced in, as one of the best of control point 1" in texts(app)
    app.button(key="basis_choose_pick").click().run()
    assert clean(app).selectbox(key="action").value == picks[1].entry_id


def test_sliders_select_again(open_page: OpenPage, store: Path) -> None:
    run = make_big_run(store, 160, width=24, budget=72)
    app = view(clean(open_page("basis")), "Select again")
    assert "own settings: 72 picks, 72 kept, 0 gained, 0 lost" in texts(app)
    assert not app.code and not app.warning
    app.slider(key="basis_budget_big").set_value(64)
    app.slider(key="basis_min_per_control_point_big").set_value(1).run()
    table = frame_with(clean(app), "re-selected").set_index("what")
    assert list(table.loc["picks", ["stored", "re-selected", "change"]]) == [72, 64, -8]
    assert table.loc["forced in", "re-selected"] == 7
    fates = frame_with(app, "pick now")["fate"].tolist()
    assert fates.count("lost") - fates.count("gained") == 8
    assert "--set basis.budget=64 --set basis.min_per_control_point=1 --redo basis" in app.code[0].value
    assert len(run.picks()) == 72  # nothing was written


def test_a_basis_that_its_settings_no_longer_make_is_called_stale(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)  # its picks are made up
    app = view(clean(open_page("basis")), "Select again")
    assert "stale" in app.warning[0].value


def test_a_library_of_two_actions(open_page: OpenPage, store: Path) -> None:
    make_big_run(store, 4, width=24)
    app = clean(open_page("basis"))
    for name in ("Replay", "Select again", "Coverage"):
        view(app, name)
    assert "the selection kept everything" in texts(view(app, "Select again"))


def test_five_thousand_entries_are_drawn_again_with_little_work(open_page: OpenPage, store: Path) -> None:
    make_big_run(store)
    app = clean(open_page("basis"))
    for name in ("Replay", "Select again", "Coverage", "Cosines"):
        view(app, name)  # computed
        assert calls_of_a_rerun(app) < MOST_CALLS, name
