"""Saved work through the pages: it outlives the tab, opens by its address, goes on without its page, is shared and deleted."""

import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from fake_run import NASTY, make_fake_run
from fake_steering import FakeSteering, install
from page_reading import clean, components, leaves, strips, texts
from streamlit.testing.v1 import AppTest

from stir_core.cli import main
from stir_core.records import Event
from stir_core.saved import SavedBranch, SavedImpulse, SavedRedecision, SavedTrace, SavedWork
from stir_core.store.runs import Run
from stir_core.store.saved import SavedFolder
from workbench import bootstrap
from workbench.shared.saved import command_of, saved_html
from workbench.shared.trace_comparison import comparison_json, recording_of

OpenPage = Callable[..., AppTest]


@pytest.fixture
def sessions(store: Path, monkeypatch: pytest.MonkeyPatch) -> list[FakeSteering]:
    make_fake_run(store)
    return install(monkeypatch, nasty=True)


def only(store: Path, kind: str) -> SavedWork:
    (work,) = [work for work in SavedFolder(store).all()[0] if work.kind == kind]
    return work


def strip(app: AppTest) -> dict:
    (drawn,) = [data for data in components(app) if "steps" in data]
    return {key: value for key, value in drawn.items() if key != "version"}


def test_a_trace_opens_in_another_tab_and_equals_what_was_decoded(open_page: OpenPage, sessions: list[FakeSteering], store: Path) -> None:
    app = open_page("trace", problem="arithmetic/eval/2")
    app.number_input(key="trace_k_scale_fake").set_value(0.25).run()
    app.button(key="trace_start").click().run()
    work = only(store, "trace")
    assert app.query_params["saved"] == work.id
    content = SavedFolder(store).content(work.id)
    assert isinstance(content, SavedTrace)
    shown = app.session_state["trace_recording"]
    again = recording_of(work, content, shown.settings["run"])
    assert comparison_json(again, "") == comparison_json(shown, "") and again.codes == shown.codes
    other = clean(open_page("trace", saved=work.id))  # another tab: nothing but the address
    assert strip(other) == strip(app) and len(sessions) == 1 and not other.warning
    assert other.number_input(key="trace_k_scale_fake").value == 0.25
    assert other.selectbox(key="problem").value == "arithmetic/eval/2"


def test_decoding_goes_on_without_its_page_and_any_tab_can_follow_or_stop_it(
    open_page: OpenPage, sessions: list[FakeSteering], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, waiting, go = FakeSteering.compare, threading.Event(), threading.Event()

    def slow(self: FakeSteering, *asked: object, **more: object) -> Generator[Event, None, None]:
        for number, event in enumerate(whole(self, *asked, **more)):  # pyright: ignore[reportArgumentType]
            if number == 9:
                waiting.set()
                assert go.wait(60)
            yield event

    monkeypatch.setattr(FakeSteering, "compare", slow)
    app = open_page("trace", problem="arithmetic/eval/2")
    with monkeypatch.context() as patch:
        patch.setattr("workbench.trace.view_form.follow_trace", lambda *_: None)  # a page that is left at once
        app.button(key="trace_start").click().run()
    assert waiting.wait(60)
    (running,) = bootstrap.decodings().running()
    app.switch_page("../pages/home.py").run()
    assert "decoding" in str([element.proto for element in leaves(clean(app).main)]).lower()
    assert not SavedFolder(store).all()[0]
    running.stop()
    go.set()
    assert list(running.follow()) and running.ended
    work = only(store, "trace")
    assert work.id == running.id and "stopped" in work.outcome
    make_fake_run(store, "another")
    assert "Stopped before both answers had ended" in texts(open_page("trace", saved=work.id))


def test_branches_impulses_and_decisions_are_saved_and_found_again(open_page: OpenPage, sessions: list[FakeSteering], store: Path) -> None:
    app = clean(open_page("what_if", problem="arithmetic/eval/2", m="2"))
    app.button_group(key="what_if_way").set_value("Keep")
    app.button(key="what_if_branch").click().run()
    key = next(box.key for box in clean(app).selectbox if str(box.key).startswith("what_if_from"))
    app.selectbox(key=str(key)).set_value(1).run()
    app.button_group(key="what_if_way").set_value("Deny").run()
    app.button(key="what_if_branch").click().run()
    first, second = sorted(SavedFolder(store).all()[0], key=lambda work: work.title, reverse=True)
    rows = next(frame.value for frame in clean(app).dataframe if "of" in frame.value.columns)
    other = clean(open_page("what_if", saved=second.id))
    assert second.id in other.query_params["saved"]  # for a reload
    again = next(frame.value for frame in other.dataframe if "of" in frame.value.columns)
    assert len(rows) == 3 and again.equals(rows)
    content = SavedFolder(store).content(second.id)
    assert isinstance(content, SavedBranch) and [change.to for change in content.changes] == ["keep", "null"]
    assert first.title.startswith("m 2: keep")

    app = clean(open_page("actions", action="p0003c"))
    app.button(key="actions_measure").click().run()
    impulse = only(store, "impulse")
    content = SavedFolder(store).content(impulse.id)
    assert isinstance(content, SavedImpulse)
    bootstrap.st.cache_resource.clear()  # as after a restart of the server
    other = clean(open_page("actions", saved=impulse.id))
    assert [metric.value for metric in other.metric] == [metric.value for metric in clean(app).metric] and other.metric
    assert sum(len(each.responded) for each in sessions) == 1

    app = clean(open_page("gates"))
    app.slider(key="gates_beta").set_value(app.slider(key="gates_beta").max).run()
    app.button(key="gates_save").click().run()
    decided = only(store, "re-decision")
    content = SavedFolder(store).content(decided.id)
    assert isinstance(content, SavedRedecision) and content.gate.beta == app.slider(key="gates_beta").max
    assert clean(open_page("gates", saved=decided.id)).slider(key="gates_beta").value == content.gate.beta

    run = Run.open(store / "fake")
    for work in SavedFolder(store).all()[0]:
        app = clean(open_page("saved", saved=work.id))
        assert app.selectbox(key="saved").value == work.id
        content = SavedFolder(store).content(work.id)
        assert command_of(content, run) in [code.value for code in app.code]
        page = saved_html(work, content, command_of(content, run))
        assert "<script>alert" not in page and "http-equiv" in page
    assert main(["saved", "--runs", str(store)]) == 0


def test_a_piece_is_deleted_shared_and_a_damaged_one_is_one_line(
    open_page: OpenPage, sessions: list[FakeSteering], store: Path, tmp_path: Path
) -> None:
    open_page("trace", problem="arithmetic/eval/0").button(key="trace_start").click().run()
    work = only(store, "trace")
    sent = tmp_path / "piece.zip"
    assert main(["saved", work.id, "--runs", str(store), "--to", str(sent)]) == 0
    app = clean(open_page("saved", saved=work.id))
    assert any(NASTY in "".join(piece["text"] for piece in drawn["segments"]) for drawn in strips(app))
    assert not any("<script>" in element.value for element in app.markdown)
    app.button(key="saved_delete").click().run()
    assert "Nothing saved yet" in texts(clean(app)) and not SavedFolder(store).all()[0]
    assert main(["saved", work.id, "--runs", str(store)]) == 2
    app = open_page("trace", saved=work.id)
    assert not app.exception and [error.value for error in app.error if "there is no saved work" in error.value.replace("\\", "")]
    assert main(["saved", "--runs", str(store), "--add", str(sent)]) == 0
    assert only(store, "trace") == work
    file = store / "saved" / work.id / "content.json"
    file.write_bytes(file.read_bytes()[:-20])
    bootstrap.st.cache_resource.clear()
    app = open_page("saved", saved=work.id)
    assert not app.exception and len(app.error) == 1 and "SHA-256 is another" in texts(app) and app.button(key="saved_delete")


def test_an_address_that_is_not_here_is_one_line_and_nothing_else_is_shown_for_it(
    open_page: OpenPage, sessions: list[FakeSteering], store: Path
) -> None:
    make_fake_run(store, "another")
    for problem in ("arithmetic/eval/0", "arithmetic/eval/2"):
        open_page("trace", run="another", problem=problem).button(key="trace_start").click().run()
    first, second = SavedFolder(store).all()[0]
    app = open_page("trace", saved=first.id)  # its run is not the first one
    assert app.selectbox(key="run").value == "another" and app.query_params["saved"] == first.id
    SavedFolder(store).delete(first.id)
    app = open_page("saved", saved=first.id)
    assert not app.exception and f"There is no saved work {first.id} here" in texts(app)
    assert app.selectbox(key="saved").value == second.id
    app = clean(app.run())
    assert "There is no saved work" not in texts(app)
