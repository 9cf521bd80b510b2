"""The Trace page on a session without a model: streaming, badge, staleness, stop, refusals, one model for all tabs."""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false
# (pandas and plotly carry no stubs here: a column may be anything to a type checker)

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from fake_run import NASTY, fake_config, make_fake_run, problems
from fake_steering import FakeSteering, LoadedFake, install
from page_reading import components, leaves, strips, texts
from streamlit.testing.v1 import AppTest

from stir_core.config import ModelConfig
from stir_core.errors import MismatchError, ModelError, PromptError
from stir_core.store.runs import Run
from workbench import live
from workbench.shared.facts import run_fingerprint
from workbench.shared.text import visible_token
from workbench.trace.data import presets

OpenPage = Callable[..., AppTest]


@pytest.fixture
def sessions(store: Path, monkeypatch: pytest.MonkeyPatch) -> list[FakeSteering]:
    """Every session that the app opened, on a store with one run."""
    make_fake_run(store)
    return install(monkeypatch, nasty=True)


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
    drawn = document(app)
    assert [row["head"].split(" ·")[0] for step in drawn["steps"] for row in step["rows"]] == [
        f"control point {n}" for n in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)
    ]
    steered = [token for step in drawn["steps"] for token in step["rows"][1]["tokens"]]
    assert NASTY in "".join(token["text"] for token in steered)
    assert all(token["reading"]["near"][1][1] == visible_token(NASTY) for token in steered)
    assert [step["gate"]["summary"].split(":")[0] for step in drawn["steps"] if step["gate"]] == [
        f"gate at control point {n}" for n in (0, 1, 2, 3)
    ]
    assert any("to read" in text and "tokens again" in text for text in [badges(app).replace("\\", "")])
    assert "greedy, seed 7" in badges(app)


def test_recorded_answers_stand_before_anything_is_decoded(open_page: OpenPage, sessions: list[FakeSteering], store: Path) -> None:
    app = open_page("trace", problem="arithmetic/eval/2")
    recorded = Run.open(store / "fake")
    for strip, kind in zip(strips(app), ("vanilla", "steered"), strict=True):
        (trace,) = (trace for trace in recorded.traces(kind) if trace.id == "arithmetic/eval/2")
        assert trace.steps[1].text.split()[0] in "".join(each["text"] for each in strip["segments"])
    assert "As recorded in the run" in texts(app) and not sessions


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

    monkeypatch.setattr(live, "open_steering", refuse)
    app = open_page("trace")
    app.button(key="trace_start").click().run()
    assert not app.exception
    assert [e.value.replace("\\", "") for e in app.error] == [str(error)]
    keys, kinds = ([getattr(element, name, None) for element in leaves(app.main)] for name in ("key", "type"))
    assert keys.index("trace_start") < kinds.index("error") < kinds.index("code")  # beside the button, above the command


def test_two_tabs_share_one_model(open_page: OpenPage, sessions: list[FakeSteering], monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    monkeypatch.setattr(live, "load_core_model", lambda config: loads.append(config) or LoadedFake())
    decode(open_page("trace"))
    decode(open_page("trace"))
    assert len(loads) == 1 and len(sessions) == 1


def test_the_shelf_lets_go_of_a_model_before_it_takes_another(fake_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = live.ModelShelf()
    held_while_loading = []

    def load(config: ModelConfig) -> LoadedFake:
        held_while_loading.append(shelf.identity)
        return LoadedFake()

    monkeypatch.setattr(live, "load_core_model", load)
    monkeypatch.setattr(live, "open_steering", lambda run, model: FakeSteering(run))
    with shelf.lent(fake_run, run_fingerprint(fake_run)) as first, shelf.lent(fake_run, run_fingerprint(fake_run)) as second:
        assert second is first
    with shelf.lent(fake_run, "the run was made again") as third:
        assert third is not first
    shelf.load(ModelConfig(name="another"))
    assert held_while_loading == [None, None]


def test_another_model_is_refused_while_one_answers(fake_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, other = live.ModelShelf(), ModelConfig(name="another")
    monkeypatch.setattr(live, "load_core_model", lambda config: LoadedFake())
    monkeypatch.setattr(live, "open_steering", lambda run, model: FakeSteering(run))
    print_of_run = run_fingerprint(fake_run)
    with shelf.lent(fake_run, print_of_run) as first, shelf.lent(fake_run, print_of_run) as second:
        assert first is second  # tabs share a model
        with pytest.raises(ModelError, match=r"is answering in another tab.*then ask for another again"):
            shelf.load(other)
        with shelf.lent(fake_run, print_of_run) as third:
            assert third is first
    with pytest.raises(RuntimeError), shelf.lent(fake_run, print_of_run):
        raise RuntimeError("a page that is left in the middle gives the model back")
    shelf.load(other)
    with shelf.lent(fake_run, print_of_run) as fourth:
        assert fourth is not first


def test_the_result_is_kept_while_other_pages_are_open(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = decode(open_page("trace"))
    app.switch_page("../pages/home.py").run()
    app.switch_page("../pages/trace.py").run()
    assert "first difference" in badges(app) and not app.warning


def test_presets_fill_the_form_and_say_which_one_stands(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_page("trace")
    assert "Preset: Run's own" in texts(app)
    for number, (name, values) in enumerate(presets(fake_config().gate).items()):
        app.button(key=f"trace_preset_{number}").click().run()
        assert not app.exception and not app.warning
        assert f"Preset: {name}" in texts(app)
        assert app.number_input(key="trace_k_scale_fake").value == values["k_scale"]
        assert app.selectbox(key="trace_variant_fake").value == values["variant"]
    app.number_input(key="trace_k_scale_fake").set_value(0.85).run()
    assert "Preset: none" in texts(app)
    app.switch_page("../pages/home.py").run()
    app.switch_page("../pages/trace.py").run()
    assert app.number_input(key="trace_k_scale_fake").value == 0.85


def test_examples_fill_the_prompt(open_page: OpenPage, sessions: list[FakeSteering]) -> None:
    app = open_page("trace")
    app.button_group(key="trace_kind").set_value("Free prompt").run()
    app.button(key="trace_example_1").click().run()
    assert app.text_area(key="trace_prompt").value in {problem.question for problem in problems("eval", 6)}
    app = decode(app)
    assert sessions[0].asked[0][0] == app.text_area(key="trace_prompt").value


def test_reading_that_was_stopped_is_said(open_page: OpenPage, sessions: list[FakeSteering], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FakeSteering.read
    monkeypatch.setattr(FakeSteering, "read", lambda *args: (reading for reading in islice(whole(*args), 5)))
    app = decode(open_page("trace"))
    assert "before both answers were read again" in app.warning[0].value
    drawn = document(app)
    read = [token["reading"] is not None for step in drawn["steps"] for row in step["rows"] for token in row["tokens"]]
    assert sum(read) == 5 and len(read) > 5


def document(app: AppTest) -> dict:
    """What the page gave its token strip."""
    given = components(app)
    (drawn,) = [data for data in given if data is not None and "steps" in data]
    return drawn
