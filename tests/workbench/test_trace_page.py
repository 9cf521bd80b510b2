"""The Trace page on a session without a model: streaming, badge, staleness, stop, refusals, one model for all tabs."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_run import IDENTITY, NASTY, make_fake_run
from fake_steering import FakeSteering
from streamlit.testing.v1 import AppTest

from stir_core.config import ModelConfig
from stir_core.errors import MismatchError, PromptError
from stir_core.store.runs import Run
from workbench import live
from workbench.services.run_facts import fingerprint

OpenPage = Callable[..., AppTest]


class LoadedFake:
    """Stands for a loaded model."""

    identity = IDENTITY


@pytest.fixture
def sessions(store: Path, monkeypatch: pytest.MonkeyPatch) -> list[FakeSteering]:
    """Every session that the app opened, on a store with one run."""
    make_fake_run(store)
    opened: list[FakeSteering] = []

    def open_session(run: Run, model: object) -> FakeSteering:
        opened.append(FakeSteering(run, nasty=True))
        return opened[-1]

    monkeypatch.setattr(live, "load_model", lambda config: LoadedFake())
    monkeypatch.setattr(live, "open_session", open_session)
    return opened


def badges(app: AppTest) -> str:
    """All markdown of the page, badges included."""
    return " ".join(element.value for element in app.markdown)


def decode(app: AppTest) -> AppTest:
    """Press the button."""
    app.button(key="trace_start").click().run()
    assert not app.exception, app.exception[0].value
    return app


def test_decoding_shows_both_answers_step_by_step(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = decode(open_page("trace", problem="arithmetic/eval/2"))
    assert not app.error and not app.warning
    assert "first difference: token" in badges(app)
    question, gate, _ = sessions[0].asked[0]
    assert not isinstance(question, str) and question.id == "arithmetic/eval/2"
    assert gate.k_scale == 0.5
    assert sessions[0].closed == 1
    assert any("stir trace" in code.value and "arithmetic/eval/2" in code.value for code in app.code)
    drawn = []
    for element in _leaves(app.main):
        if element.type == "bidi_component":
            drawn.append("".join(piece["text"] for piece in json.loads(element.proto.json)["segments"]))
    assert len(drawn) == 9
    assert any(NASTY in text for text in drawn)
    assert [e.label for e in app.expander if e.label.startswith("gate before step")]


def test_strength_zero_earns_its_badge(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_page("trace")
    sessions_before = len(sessions)
    app.number_input(key="trace_k_scale_fake").set_value(0.0)
    app.run()
    assert len(sessions) == sessions_before
    app = decode(app)
    assert "DIFFERS" in badges(app)  # the fake answers with other text here, and the page must not take our word for it
    sessions[0].nasty = False
    app = decode(app)
    assert "strength 0 equals vanilla" in badges(app)
    assert "DIFFERS" not in badges(app)


def test_changed_settings_make_the_result_stale(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = decode(open_page("trace"))
    app.number_input(key="trace_candidates_fake").set_value(1).run()
    assert "gate.candidates" in app.warning[0].value.replace("\\", "")
    app = decode(app)
    assert not app.warning
    assert sessions[0].asked[-1][1].candidates == 1
    assert any("--candidates 1" in code.value for code in app.code)


def test_a_free_prompt_has_no_verdict(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_page("trace")
    app.button_group(key="trace_kind").set_value("Free prompt").run()
    app.button(key="trace_start").click().run()
    assert "prompt is empty" in app.warning[0].value and not sessions
    app.text_area(key="trace_prompt").set_value("How many?").run()
    app = decode(app)
    assert sessions[0].asked[0][0] == "How many?"
    table = next(frame.value for frame in app.dataframe if "answer" in frame.value.columns)
    assert table["right"].isna().all()


@pytest.mark.parametrize("error", [PromptError("the prompt is too long: 9000 tokens"), MismatchError("made with another model")])
def test_refusals_are_one_line(
    open_page: OpenPage, sessions: list[FakeSteering], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr(live, "open_session", refuse)
    app = open_page("trace")
    app.button(key="trace_start").click().run()
    assert not app.exception
    assert [e.value.replace("\\", "") for e in app.error] == [str(error)]


def test_two_tabs_share_one_model(open_page: OpenPage, sessions: list[FakeSteering], monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    monkeypatch.setattr(live, "load_model", lambda config: loads.append(config) or LoadedFake())
    decode(open_page("trace"))
    decode(open_page("trace"))
    assert len(loads) == 1 and len(sessions) == 1


def test_the_shelf_lets_go_of_a_model_before_it_takes_another(fake_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = live.ModelShelf()
    held_while_loading = []

    def load(config: ModelConfig) -> LoadedFake:
        held_while_loading.append(shelf.identity)
        return LoadedFake()

    monkeypatch.setattr(live, "load_model", load)
    monkeypatch.setattr(live, "open_session", lambda run, model: FakeSteering(run))
    first = shelf.session(fake_run, fingerprint(fake_run))
    assert shelf.session(fake_run, fingerprint(fake_run)) is first
    assert shelf.session(fake_run, "the run was made again") is not first
    shelf.load(ModelConfig(name="another"))
    assert held_while_loading == [None, None]


def test_the_result_is_kept_while_other_pages_are_open(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = decode(open_page("trace"))
    app.switch_page("../pages/home.py").run()
    app.switch_page("../pages/trace.py").run()
    assert "first difference" in badges(app) and not app.warning


def _leaves(block) -> list:
    found = []
    for child in block.children.values():
        found += _leaves(child) if hasattr(child, "children") else [child]
    return found
