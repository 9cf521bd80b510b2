"""The Actions page: measurement on request, kept and stale figures, links; marked sources; clicks on held-out steps."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fake_impulse import fake_response
from fake_run import NASTY, make_fake_run
from fake_steering import FakeSteering, install
from page_reading import clean, texts
from safetensors.numpy import save_file
from streamlit.testing.v1 import AppTest

from stir_core.errors import DataError
from workbench.actions import data as impulse
from workbench.actions.charts import attention_maps, disturbance_curves, divergence_curves, dose_curve, shift_dumbbells, travel_heatmap
from workbench.actions.data import marked_segments, state_table
from workbench.actions.view_impulse import ResponseMemory
from workbench.shared import entries as action_card
from workbench.shared.facts import RunFacts

OpenPage = Callable[..., AppTest]
ENTRY = "p0000c"


class Opened(NamedTuple):
    """The run in the store, and the sessions that the app has opened."""

    facts: RunFacts
    sessions: list[FakeSteering]


@pytest.fixture
def opened(store: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    facts = RunFacts(make_fake_run(store))
    return Opened(facts, install(monkeypatch, nasty=False))


@pytest.fixture(scope="module")
def response(facts: RunFacts):
    entry = facts.entries[ENTRY]
    spot = impulse.spots_of(facts, entry)
    action = facts.run.action_rows()[entry.action_row]
    return fake_response(entry, action, next(iter(spot.values())), 0.7)


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def measured(app: AppTest) -> AppTest:
    app.button(key="actions_measure").click().run()
    return clean(app)


def test_the_card_is_that_of_the_action_that_was_committed_most(open_page: OpenPage, opened: Opened) -> None:
    app = clean(open_page("actions"))
    table = next(frame.value for frame in app.dataframe if "promotes" in frame.value.columns)
    assert max(table["committed"]) > 0 and table["entry"].iloc[0] != ENTRY, "else this would not tell"
    assert app.selectbox(key="action").value == table["entry"].iloc[0]


def test_the_filtered_table_is_printed_by_its_python(open_page: OpenPage, opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    app = clean(open_page("actions"))
    for widget, value in (("actions_m", [1, 2]), ("actions_controls", ["passes", "cannot tell"])):
        app.button_group(key=widget).set_value(value).run()
    app.toggle(key="actions_basis").set_value(True).run()
    table = next(frame.value for frame in clean(app).dataframe if "promotes" in frame.value.columns)
    code = next(code.value for code in app.code if "Counter" in code.value)
    exec(code, {})
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for name, *_ in said] == list(table["entry"]) and 0 < len(said) < len(opened.facts.entries)
    assert [int(commits) for _, commits, *_ in said] == sorted(table["committed"], reverse=True)


def test_nothing_is_measured_before_it_is_asked_for(open_page: OpenPage, opened: Opened) -> None:
    app = clean(open_page("actions", action=ENTRY))
    assert opened.sessions == []
    assert "Not measured yet" in texts(app)
    spots = impulse.spots_of(opened.facts, opened.facts.entries[ENTRY])
    assert app.selectbox(key="at").options == [impulse.spot_label(spot) for spot in spots.values()]
    first = next(iter(spots.values()))
    assert app.number_input(key="actions_alpha").value == round(first.alpha or 1.0, 4)
    command = f"stir impulse {opened.facts.run.path} {ENTRY} --at {first.name} --alpha"
    assert any(code.value.startswith(command) for code in app.code)


def test_the_button_measures_what_is_chosen_and_the_figures_stay(open_page: OpenPage, opened: Opened) -> None:
    app = clean(open_page("actions", action=ENTRY))
    app.number_input(key="actions_alpha").set_value(0.5).run()
    measured(app)
    place = app.selectbox(key="at").value
    assert opened.sessions[0].responded == [(ENTRY, place, 0.5)]
    assert metrics(app)["KL at the control point"] == "0.050 nats"  # 0.2 * 0.5 ** 2
    assert metrics(app)["with attention frozen"] == "25%"
    assert metrics(app)["degenerate from"].startswith("α 4 ")
    assert "Not measured yet" not in texts(app)
    clean(app.run())
    assert opened.sessions[0].responded == [(ENTRY, place, 0.5)]  # a rerun does not measure again
    other = clean(open_page("actions", action=ENTRY, at=place, alpha="0.5"))  # a reload, or another tab with the link
    assert metrics(other)["KL at the control point"] == "0.050 nats"
    assert len(opened.sessions) == 1


def test_changed_settings_make_the_figures_stale(open_page: OpenPage, opened: Opened) -> None:
    app = measured(clean(open_page("actions", action=ENTRY, alpha="1")))
    app.number_input(key="actions_alpha").set_value(2.0).run()
    assert "Stale: these figures are of α 1 at" in clean(app).warning[0].value.replace("\\", "")
    assert metrics(app)["KL at the control point"] == "0.200 nats"
    measured(app)
    assert not app.warning and metrics(app)["KL at the control point"] == "0.800 nats"
    app.number_input(key="actions_alpha").set_value(1.0).run()
    assert not clean(app).warning and metrics(app)["KL at the control point"] == "0.200 nats"  # that one was kept
    app.selectbox(key="action").select("p0001c").run()
    assert "KL at the control point" not in metrics(clean(app))  # never another entry's figures


def test_strength_zero_and_source_rollouts_are_drawn_too(open_page: OpenPage, opened: Opened) -> None:
    entry = opened.facts.entries[ENTRY]
    wrong = f"{entry.problem_id}#{entry.negatives[0]}:{entry.m}"
    app = measured(clean(open_page("actions", action=ENTRY, at=wrong, alpha="0")))
    assert opened.sessions[0].responded == [(ENTRY, wrong, 0.0)]
    assert metrics(app)["KL at the control point"] == "0.000 nats"
    assert metrics(app)["with attention frozen"] == "–"


def test_a_wrong_strength_in_a_link_is_refused(open_page: OpenPage, opened: Opened) -> None:
    for alpha in ("nan", "-3", "1e9", "<script>"):
        app = open_page("actions", action=ENTRY, alpha=alpha)
        assert not app.exception and [f'strength "{alpha}"' in error.value.replace("\\", "") for error in app.error] == [True]
        assert "actions_measure" not in [button.key for button in app.button]


def test_a_refusal_is_one_line(open_page: OpenPage, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise DataError("the place is not a control point: choose another")

    monkeypatch.setattr(FakeSteering, "respond", refuse)
    app = clean(open_page("actions", action=ENTRY))
    app.button(key="actions_measure").click().run()
    assert not app.exception
    assert [error.value.replace("\\", "") for error in app.error] == ["the place is not a control point: choose another"]


def test_a_null_entry_has_no_impulse(open_page: OpenPage, opened: Opened) -> None:
    app = clean(open_page("actions", action="p0000n"))
    assert "no action to inject" in texts(app)
    assert "actions_measure" not in [button.key for button in app.button]


def test_firings_name_the_same_steps_as_the_places(facts: RunFacts) -> None:
    for entry in facts.entries.values():
        table = action_card.firings(facts, entry.id)
        held = [spot for spot in impulse.spots_of(facts, entry).values() if spot.kind == "held-out"]
        assert [f"{row.problem}:{row.m}" for row in table.itertuples()] == [spot.name for spot in held]
        assert table["value"].tolist() == pytest.approx([cosine * entry.quality for cosine in table["cosine"]])


def test_sources_are_marked_at_the_token_of_the_state(facts: RunFacts) -> None:
    entry = facts.entries["p0001c"]
    table = state_table(facts, entry)
    assert table["side"].tolist() == ["+"] * len(entry.positives) + ["−"] * len(entry.negatives)
    for row in table.itertuples():
        rollout = facts.rollouts[entry.problem_id, row.rollout]
        sequence = [*rollout.prompt_ids, *rollout.token_ids]
        assert sequence[row.position] == row.id and rollout.token_ids[row.token - 1] == row.id
        assert row.token == rollout.boundaries[entry.m - 1]
    (side, *_), _ = action_card.source_answers(facts, entry)
    before, mark, after = marked_segments(side, "\n\n", entry.m, 198)
    assert before["text"] + "\n\n" + after["text"] == side.before + side.after
    assert mark["text"].startswith("↵↵⟦state") and f"token {side.tokens_before} of the answer, id 198" in mark["tip"]


def test_tables_and_figures_show_what_was_measured(response) -> None:
    layers, travel = impulse.layer_table(response), impulse.travel_table(response)
    assert len(travel) == len(response.layers) * len(response.tokens)
    assert travel["token"].nunique() == len(response.tokens)  # equal tokens differ by their position
    divergence = impulse.divergence_table(response)
    assert divergence[divergence["way"] == "attention frozen"]["kl"].tolist() == list(response.kl_frozen)
    heads = impulse.attention_table(response)
    assert np.allclose(heads["difference"], heads["steered"] - heads["unsteered"])
    assert (heads[heads["layer"] <= response.layer]["difference"] == 0).all()
    doses = impulse.dose_table(response)
    assert doses[doses["alpha"] >= 4]["degenerate"].notna().all() and doses[doses["alpha"] < 4]["degenerate"].isna().all()
    drawn = [
        disturbance_curves(layers),
        travel_heatmap(travel),
        shift_dumbbells(impulse.shift_table(response)),
        divergence_curves(divergence),
        attention_maps(heads, response.layer),
        dose_curve(doses, response.alpha, 4.0, 0.4),
    ]
    for chart in drawn:
        chart.to_dict()
    difference = drawn[4].to_dict()["hconcat"][2]["layer"][0]["encoding"]["color"]["scale"]["domain"]
    assert difference[0] == -difference[1] != 0
    assert NASTY.replace(" ", "␣") in layers["promotes"].iloc[0]


def test_kept_responses_are_bounded(response) -> None:
    kept = ResponseMemory(most=2)
    keys = [("run", ENTRY, "p:1", float(i)) for i in range(3)]
    kept.put(keys[0], response)
    kept.put(keys[1], response)
    assert kept.get(keys[0]) is response  # used again, so the other one is the oldest
    kept.put(keys[2], response)
    assert [kept.get(key) is not None for key in keys] == [True, False, True]


def test_its_meaning_is_read_from_the_runs_own_steps(open_page: OpenPage, opened: Opened) -> None:
    app = clean(open_page("actions", action=ENTRY))
    seen, run = texts(app), opened.facts.run
    recorded = sum(len(rollout.boundaries) for rollout in run.rollouts())
    assert f"n = {recorded} steps, all of all rollouts; 8 problems" in seen
    tables = [frame.value for frame in app.dataframe if "projection" in frame.value]
    assert [len(table) for table in tables] == [8, 8]
    assert tables[0]["projection"].is_monotonic_decreasing and tables[1]["projection"].is_monotonic_increasing
    assert tables[0]["projection"].min() > tables[1]["projection"].max()
    assert any(code.value == f"stir show {run.path} {ENTRY}" for code in app.code)
    assert opened.sessions == []  # no model is loaded


def test_what_erasure_leaves_and_other_runs_are_tabs_of_their_own(open_page: OpenPage, opened: Opened, store: Path) -> None:
    make_fake_run(store, "twin")
    seen = texts(clean(open_page("actions", run=opened.facts.name, action=ENTRY, meaning="Subspace and erasure")))
    assert "linear" in seen or "Cannot tell" in seen or "does not tell" in seen
    assert "all of all rollouts" not in seen  # only the open tab is computed
    app = clean(open_page("actions", run=opened.facts.name, action=ENTRY, meaning="Other runs"))
    (table,) = [frame.value for frame in app.dataframe if "typical" in frame.value]
    assert (table["run"][0], table["entry"][0], table["cosine"][0]) == ("twin", ENTRY, pytest.approx(1))
    assert "n = 1 other run of this model" in texts(app)


def test_a_dictionary_and_a_lens_are_offered_where_they_can_be_read(
    open_page: OpenPage, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = opened.facts.run.action_rows()[opened.facts.entries[ENTRY].action_row]
    assert "No dictionary of width" in texts(clean(open_page("actions", action=ENTRY, meaning="Dictionary")))
    save_file({"W_dec": np.stack([-action, 3 * action, np.ones_like(action)])}, tmp_path / "sae.safetensors")
    monkeypatch.setenv("STIR_MODELS", str(tmp_path))
    app = clean(open_page("actions", action=ENTRY, meaning="Dictionary"))
    (table,) = [frame.value for frame in app.dataframe if "feature" in frame.value]
    assert (table["feature"][0], table["cosine"][0], table["weight"][0]) == (1, pytest.approx(1), pytest.approx(1))
    assert "explains 100.0% of the action's squared norm" in texts(app)
    app = clean(open_page("actions", action=ENTRY, meaning="Jacobian lens"))
    assert "Not read yet" in texts(app)
    assert app.button(key="actions_jacobian").label == "Read on the model"
