"""The Gates page: sliders recompute decisions, the badge counts flips, arrows change the step, links restore the settings."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

import re
from collections.abc import Callable
from pathlib import Path

import fake_run
import pytest
from fake_run import make_fake_run
from page_reading import clean, texts
from streamlit.testing.v1 import AppTest

from stir_core.config import config_from, with_changes
from stir_core.store.runs import Run
from workbench.shared import gate_replay as replay
from workbench.shared.facts import RunFacts

OpenPage = Callable[..., AppTest]
SETTINGS = ("beta", "rho", "tau_null", "min_sim", "k_scale", "k_retrieve", "candidates")


def counted(store: Path, **changes: float) -> replay.Tally:
    facts = RunFacts(Run.open(store / "fake"))
    own = facts.config.gate
    return replay.tally(replay.replay_all(facts.steered, own, with_changes(own, **changes), seed=facts.config.seed).values())


def badge(app: AppTest) -> str:
    return next(line for line in texts(app).splitlines() if "-badge[" in line)


def test_sliders_stand_at_the_runs_own_values(open_page: OpenPage, store: Path) -> None:
    gate = make_fake_run(store).config.gate
    app = clean(open_page("gates"))
    assert {name: app.slider(key=f"gates_{name}").value for name in SETTINGS} == {name: getattr(gate, name) for name in SETTINGS}
    assert f"all {counted(store).known} decisions come out as recorded" in badge(app)
    assert app.code[0].value.startswith("import stir_core") and app.code[1].value.startswith("stir trace ")


def test_it_opens_on_an_answer_and_a_step_with_a_commit(open_page: OpenPage, store: Path) -> None:
    run = make_fake_run(store)
    steered = RunFacts(run).steered
    committed = {id_: [str(s.m) for s in trace.steps if s.decision.chosen] for id_, trace in steered.items()}
    app = clean(open_page("gates"))
    first = next(id_ for id_, steps in committed.items() if steps)
    assert app.selectbox(key="problem").value == first and app.button_group(key="m").value == committed[first][0]
    app = clean(open_page("gates", gates_tab="All answers"))
    assert "No setting is changed" in texts(app) and app.selectbox(key="run").value is not None
    assert [box.key for box in app.selectbox if box.key == "problem"] == []


def test_a_slider_decides_again_and_reset_puts_it_back(open_page: OpenPage, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_fake_run(store)
    app = clean(open_page("gates", problem="arithmetic/eval/0"))
    app.slider(key="gates_k_scale").set_value(0.0).run()
    expected = counted(store, k_scale=0.0)
    assert expected.flipped > 2
    assert f"{expected.flipped} of {expected.known} decisions flip ({expected.flipped} action → null)" in badge(clean(app))
    assert "k_scale 0.5 → 0" in texts(app)
    assert "stir:k_scale=0 " in app.code[1].value
    exec(app.code[0].value, {})  # the Python that the page offers prints the decisions that the page shows
    said = [line.split()[:5] for line in capsys.readouterr().out.splitlines() if line.startswith("arithmetic/eval/")]
    assert [now for *_, now in said].count("None") == len(said) > 0 and sum(old != "None" for _, _, old, _, _ in said) >= expected.flipped
    app.session_state["gates_tab"] = "All answers"
    app.run()
    flips = next(frame.value for frame in clean(app).dataframe if "later" in frame.value.columns)
    assert len(flips) == expected.flipped
    assert "Recorded: library at m" in texts(app) and re.search(r"With these settings: .*→ committed \*\*0\*\*", texts(app))
    app.button(key="gates_reset").click().run()
    assert "come out as recorded" in badge(clean(app))
    assert app.slider(key="gates_k_scale").value == 0.5
    assert "come out as recorded" in badge(clean(app.run()))


def test_what_the_recording_does_not_hold_is_said(open_page: OpenPage, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = fake_run.fake_config().model_dump(mode="json") | {"gate": {"k_retrieve": 4, "candidates": 1}}
    monkeypatch.setattr(fake_run, "fake_config", lambda: config_from(narrow))
    make_fake_run(store)
    app = clean(open_page("gates", problem="arithmetic/eval/0", m="1", gates_candidates="2"))
    expected = counted(store, candidates=2)
    assert expected.unknown
    assert f"{expected.unknown} answers reach a step that is not in the recording and needs the model" in texts(app)
    assert any("not in the recording, needs the model" in text.value for text in app.text)


def test_a_link_restores_sliders_problem_and_step(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    app = clean(open_page("gates", problem="arithmetic/eval/3", m="2", gates_rho="0.4"))
    assert app.slider(key="gates_rho").value == 0.4
    assert (app.selectbox(key="problem").value, app.button_group(key="m").value) == ("arithmetic/eval/3", "2")
    assert "rho 0.1 → 0.4" in texts(app)
    app = clean(open_page("gates", gates_rho="-7", gates_candidates="many"))
    assert "come out as recorded" in badge(app)


def test_arrows_go_through_steps_and_answers(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    app = clean(open_page("gates", problem="arithmetic/eval/1", m="0"))
    assert app.button(key="gates_previous_step").disabled
    app.button(key="gates_next_step").click().run()
    assert clean(app).button_group(key="m").value == "1"
    app.button(key="gates_next_answer").click().run()
    assert (clean(app).selectbox(key="problem").value, app.button_group(key="m").value) == ("arithmetic/eval/2", "1")
    app.button(key="gates_previous_answer").click().run()
    app.button(key="gates_previous_step").click().run()
    assert (clean(app).selectbox(key="problem").value, app.button_group(key="m").value) == ("arithmetic/eval/1", "0")
    app = clean(open_page("gates", problem="arithmetic/eval/5"))
    assert app.button(key="gates_next_answer").disabled


def test_another_run_starts_at_its_own_values(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store, "a")
    make_fake_run(store, "b")
    app = clean(open_page("gates", run="a", gates_rho="0.4"))
    app.selectbox(key="run").select("b").run()
    assert clean(app).slider(key="gates_rho").value == 0.1
    assert "come out as recorded" in badge(app)


def test_settings_are_kept_while_another_page_is_open(open_page: OpenPage, store: Path) -> None:
    make_fake_run(store)
    app = clean(open_page("gates"))
    app.slider(key="gates_tau_null").set_value(1.0).run()
    app.switch_page("../pages/actions.py").run()
    app.switch_page("../pages/gates.py").run()
    assert clean(app).slider(key="gates_tau_null").value == 1.0
