"""Controls as a reader sees them: flags at their thresholds, table, card, and runs that have none."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_run import fake_control, make_fake_run
from streamlit.testing.v1 import AppTest

from stir_core.errors import StoreError
from stir_core.evaluate import confounds
from stir_core.store.runs import Run
from workbench.shared import entries as action_table
from workbench.shared.confounds import control_figures
from workbench.shared.facts import RunFacts

OpenPage = Callable[..., AppTest]
PASSES = fake_control(0)


def without_controls(run: Run) -> Run:
    """As a run was before controls were measured: neither the files nor their mention."""
    manifest = json.loads((run.folder("actions") / "manifest.json").read_text())
    for name in ("controls.jsonl", "controls.safetensors"):
        del manifest["files"][name]
        (run.folder("actions") / name).unlink()
    (run.folder("actions") / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(run.path / "basis")
    shutil.rmtree(run.path / "steered")
    return Run.open(run.path)


@pytest.mark.parametrize(
    ("changes", "flags", "verdict"),
    [
        ({}, (), "passes"),
        ({"length_cosine": 0.5}, ("mostly length",), "flagged"),
        ({"length_cosine": -0.5}, ("mostly length",), "flagged"),
        ({"length_cosine": 0.49}, (), "passes"),
        ({"length_matched_cosine": 0.49}, ("mostly length",), "flagged"),
        ({"length_matched_cosine": 0.5}, (), "passes"),
        ({"permutation_p": 0.21}, ("labels do not matter",), "flagged"),
        ({"permutation_p": 0.2}, (), "cannot tell"),
        ({"permutation_p": 0.051}, (), "cannot tell"),
        ({"stability_pos": 0.0, "stability_neg": 0.0}, (), "cannot tell"),
        ({"stability_pos": None, "stability_neg": None}, (), "passes"),
        ({"length_cosine": None, "length_gap": 12.0, "length_gap_matched": 7.0}, (), "cannot tell"),
        ({"permutation_p": 1.0, "length_cosine": 0.9}, ("mostly length", "labels do not matter"), "flagged"),
        ({"permutation_p": 1.0, "permutation_floor": 0.5}, (), "cannot tell"),
        ({"permutation_p": None, "permutation_floor": None}, (), "cannot tell"),
        ({"length_cosine": None}, (), "passes"),
        ({"length_cosine": None, "length_matched_cosine": None, "length_gap_matched": None}, (), "cannot tell"),
    ],
)
def test_flags_at_their_thresholds(changes: dict, flags: tuple, verdict: str) -> None:
    control = PASSES.model_copy(update=changes)
    assert confounds.flags(control) == flags and confounds.verdict(control) == verdict


def test_what_was_not_measured_is_no_number() -> None:
    shown = {reading.name: reading.value for reading in control_figures(fake_control(2))}
    assert shown["Length cosine"] == "–" and shown["Length gap → matched"] == "+12 → –" and shown["Re-rolled right: + / −"] == "– / –"
    shown = {reading.name: reading.value for reading in control_figures(PASSES)}
    assert shown["Length cosine"] == "+0.10" and shown["Permutation p (floor)"] == "0.050 (0.050)"
    assert shown["Re-rolled right: + / −"] == "75% / 25%"
    assert all(reading.help for reading in control_figures(PASSES))
    assert confounds.verdict(None) == "cannot tell"


def test_the_table_shows_the_records(facts: RunFacts) -> None:
    table = action_table.action_table(facts, null_entries=True).set_index("entry")
    for entry_id, row in table.iterrows():
        control = facts.controls.get(str(entry_id))
        assert (control is None) == str(entry_id).endswith("n")
        assert row["controls"] == confounds.verdict(control) if control else row["controls"] != row["controls"]
        for name, field in action_table.CONTROL_FIELDS.items():
            expected = getattr(control, field) if control else None
            assert np.isnan(row[name]) if expected is None else row[name] == expected
    assert table.loc["p0001c", "flags"] == "mostly length, labels do not matter"


def test_a_run_made_before_has_none(tmp_path: Path) -> None:
    run = without_controls(make_fake_run(tmp_path, "old"))
    assert run.controls() == {}
    with pytest.raises(StoreError, match=r"controls\.safetensors does not exist"):
        run.control_rows("shuffled")
    table = action_table.action_table(RunFacts(run))
    assert len(table) == 12 and not set(action_table.CONTROL_COLUMNS) & set(table.columns)


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_the_page_shows_and_filters_them(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    app = open_page("actions", action="p0001c")
    assert not app.exception and not app.error
    assert metrics(app)["Length cosine"] == "-0.70" and metrics(app)["Leave-one-out cosine"] == "+0.70"
    shown = " ".join(element.value for element in app.markdown)
    assert "mostly length" in shown and "labels do not matter" in shown
    assert len(app.dataframe[0].value) == 12
    app.button_group(key="actions_controls").select("passes").run()
    assert not app.exception and sorted(app.dataframe[0].value["entry"]) == ["p0000c", "p0003c", "p0006c", "p0009c"]
    app.selectbox(key="action").select("p0001n").run()
    assert not app.exception and not app.metric


def test_the_page_renders_without_them(open_page: OpenPage, store: Path) -> None:
    without_controls(make_fake_run(store, "old"))
    app = open_page("actions")
    assert not app.exception and not app.error
    assert not app.metric and any("older than the controls" in caption.value for caption in app.caption)
    assert app.button_group(key="actions_controls").disabled
