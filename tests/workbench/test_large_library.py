"""A library that is too large to draw: a drawn sample, pages of the table, vectors that stay in their file. "Large" is small here."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from big_run import make_big_run
from page_reading import clean, texts
from streamlit.testing.v1 import AppTest

from stir_core.curation import EditKind, make_edit
from stir_core.store.curation import Curation
from stir_core.store.runs import Run
from workbench.basis import data as basis
from workbench.basis import reselection
from workbench.shared import facts as limits
from workbench.shared.entries import neighbours
from workbench.shared.facts import RunFacts

OpenPage = Callable[..., AppTest]
N, BUDGET, MOST = 160, 24, 60


@pytest.fixture
def large(store: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for module in ("workbench.shared.facts", "workbench.shared.view_tables"):
        monkeypatch.setattr(f"{module}.MOST_SHOWN", MOST)
    return make_big_run(store, N, width=24, budget=BUDGET)


@pytest.fixture
def both(large: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFacts, RunFacts]:
    """The run as a large one, and as one that is read whole."""
    sampled, whole = RunFacts(large), RunFacts(large)
    monkeypatch.setattr(RunFacts, "large", property(lambda facts: facts is sampled))
    return sampled, whole


def test_the_sample_holds_the_basis_and_is_the_same_each_time(both: tuple[RunFacts, RunFacts]) -> None:
    sampled, whole = both
    assert len(sampled.shown) == MOST < N == len(whole.shown)
    assert set(sampled.picks) < set(sampled.shown) and sampled.shown[0] == whole.shown[0]
    assert [i for i in whole.shown if i in sampled.shown_set] == list(sampled.shown) != list(whole.shown[:MOST])
    assert "60 of 160 entries shown" in sampled.sampled and f"seed {limits.SAMPLE_SEED}" in sampled.sampled and whole.sampled == ""


def test_what_is_read_in_parts_equals_what_is_read_whole(both: tuple[RunFacts, RunFacts], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.shared.entries.BLOCK", 7)
    sampled, whole = both
    for entry in ("p0003c", "p0003n", whole.ids[-1]):
        for by in ("keys", "actions"):
            near, plain = neighbours(sampled, entry, by), neighbours(whole, entry, by)
            assert len(near) == len(plain) and near.drop(columns="cosine").equals(plain.drop(columns="cosine"))
            np.testing.assert_allclose(near["cosine"].astype(float), plain["cosine"].astype(float), atol=1e-12)
        assert basis.pair_cosines(sampled, entry, "p0009c") == pytest.approx(basis.pair_cosines(whole, entry, "p0009c"))
        assert basis.heatmap_ids(sampled, "keys", first=[entry]) == basis.heatmap_ids(whole, "keys", first=[entry])
    columns, every = basis.entry_columns(sampled), basis.entry_columns(whole).set_index("entry")
    assert list(columns["entry"]) == list(sampled.shown)
    assert columns.set_index("entry").equals(every.loc[list(sampled.shown)])
    assert len(basis.entry_columns(sampled, every=True)) == N
    stored = [reselection.stored(facts) for facts in both]
    assert stored[0].ids == stored[1].ids and [part.total for part in stored[0].parts] == pytest.approx([p.total for p in stored[1].parts])
    table, plain = (basis.coverage_table(facts).set_index("set") for facts in both)
    assert table["entries"].tolist() == plain["entries"].tolist() == [N, BUDGET, N - BUDGET]
    assert table.loc["selected"].tolist() == pytest.approx(plain.loc["selected"].tolist(), nan_ok=True)
    assert not {"unit_keys", "unit_actions"} & set(vars(sampled)) and "unit_keys" in vars(whole)


def test_the_actions_page_draws_every_row_on_one_of_its_pages(open_page: OpenPage, large: Run) -> None:
    app = clean(open_page("actions", run="big"))
    rows: list[str] = []
    for number in (1, 2):
        app = clean(app.number_input(key="actions_page").set_value(number).run())
        rows += app.dataframe[0].value["entry"].tolist()
    assert sorted(rows) == sorted(entry.id for entry in large.entries() if entry.kind == "corrective") and len(rows) == N // 2
    assert "n = 80 of 160 entries" in texts(app) and "Rows 61 to 80;" in texts(app)
    commits = Counter(step.decision.chosen for trace in large.traces() for step in trace.steps)
    assert commits and [commits[id_] for id_ in rows] == sorted((commits[id_] for id_ in rows), reverse=True)
    outside = next(i for i in rows if i not in RunFacts(large).shown_set)
    app = clean(open_page("actions", run="big", action=outside))
    assert outside in texts(app) and app.selectbox(key="action").options[0] == outside


def test_the_basis_page_says_what_it_shows(open_page: OpenPage, large: Run) -> None:
    app = clean(open_page("basis", run="big"))
    assert f"60 of 160 entries shown: the basis ({BUDGET}) and others drawn with seed 0." in texts(app)
    for view in ("Coverage", "Replay", "Select again"):
        clean(app.button_group(key="basis_view").set_value(view).run())
        assert view != "Coverage" or "are of a sample" in texts(app)


def test_curate_and_export_draw_every_row_on_one_of_their_pages(open_page: OpenPage, large: Run) -> None:
    actions = [entry for entry in large.entries() if entry.kind == "corrective"]
    ids = [entry.id for entry in actions]
    alike = [entry.id for entry in actions if (entry.m, entry.layer) == (actions[0].m, actions[0].layer)][:2]
    history = Curation.open(large)
    for kind, entries in (("merge", alike), ("star", ids[70:72]), ("include", [id_ for id_ in ids if id_ not in alike])):
        history = history.add(make_edit(cast(EditKind, kind), entries, None, who="t", when="2026-01-01T00:00:00Z"))
    (merged,) = history.state.merges
    for page, wanted in (("curate", [merged, *ids]), ("export", [*(id_ for id_ in ids if id_ not in alike), merged])):
        app, rows = clean(open_page(page, run="big", library="curated")), list[str]()
        for number in (1, 2):
            app = clean(app.number_input(key=f"{page}_page").set_value(number).run())
            rows += app.dataframe[0].value["entry"].tolist()
        assert sorted(rows) == sorted(wanted) and len(app.dataframe[0].value) == len(wanted) - MOST
        assert f"Rows {MOST + 1} to {len(wanted)};" in texts(app)
    app = clean(open_page("curate", run="big"))
    app = clean(app.segmented_control(key="curate_list").set_value("starred").run())
    assert app.dataframe[0].value["entry"].tolist() == ids[70:72]
    app = clean(app.segmented_control(key="curate_list").set_value("noted").run())
    assert app.dataframe[0].value.empty
    last = clean(open_page("export", run="big", library="curated", only=f"ids:{ids[79]},{ids[2]}"))
    assert "2 of 79 actions are exported" in texts(last)
