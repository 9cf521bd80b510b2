"""Every page on every kind of store: none, the embedded run, a run of another model, a library of two actions, one of 5,000 entries."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import streamlit as st
from big_run import make_big_run  # pyright: ignore[reportMissingImports]
from fake_run import make_fake_run  # pyright: ignore[reportMissingImports]
from streamlit.testing.v1 import AppTest

from stir_core.store import runs as store_runs

ROOT = Path(__file__).resolve().parents[2]
STEMS = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
EMBEDDED_RUNS = store_runs.EMBEDDED_RUNS
CALLS_PER_ENTRY = 20
"""Calls of our own functions that drawing a page again may take, for each entry of the library. Counted, since clocks differ by machine."""
SMALL = {"run.json", "manifest.json"}
"""Files of a run that may be read at each draw: they say whether anything has changed."""

OpenPage = Callable[..., AppTest]


class Work:
    """Counts files that are opened and functions of ours that are called, in threads that start while :meth:`counted` is open."""

    def __init__(self) -> None:
        self.counting, self.opened, self.calls = False, [], 0
        sys.addaudithook(self._hear)  # there is no way to remove one

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count from 0 within the block."""
        self.counting, self.opened, self.calls = True, [], 0
        threading.setprofile(self._profile)
        try:
            yield
        finally:
            threading.setprofile(None)
            self.counting = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.counting and event == "open":
            self.opened.append(str(arguments[0]))

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        ours = frame.f_code.co_filename.startswith((f"{ROOT}/workbench/", f"{ROOT}/pages/", f"{ROOT}/stir_core/"))
        self.calls += event == "call" and ours


@pytest.fixture(scope="module")
def work() -> Work:
    """One counter: its hook stays with the process."""
    return Work()


def texts(app: AppTest) -> str:
    """Everything that the page says in words."""
    kinds = (app.markdown, app.caption, app.info, app.warning, app.error, app.code, app.title, app.header, app.text)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store. What pages have cached of other stores stays, as in a server: a run is read by the first page that shows it."""
    root = tmp_path / "runs"
    root.mkdir()
    monkeypatch.setenv("STIR_RUNS", str(root))
    monkeypatch.setattr(store_runs, "EMBEDDED_RUNS", {})
    return root


@pytest.fixture(scope="module", autouse=True)
def cleared() -> Iterator[None]:
    """Nothing is cached of what other tests have made, nor of these runs afterwards."""
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run, made with a model that exists nowhere."""
    root = tmp_path_factory.mktemp("fake")
    make_fake_run(root)
    return root


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run of two corrective entries."""
    root = tmp_path_factory.mktemp("two")
    run = make_big_run(root, n=4, width=32, budget=2, name="two")
    assert sum(entry.kind == "corrective" for entry in run.entries()) == 2
    return root


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run of 5,000 entries."""
    root = tmp_path_factory.mktemp("big")
    make_big_run(root)
    return root


def test_there_are_pages() -> None:
    assert {"home", "actions", "basis", "gates", "evaluate", "causal", "trace", "export"} <= set(STEMS)


@pytest.mark.parametrize("stem", STEMS)
def test_an_empty_store_says_what_to_type(open_page: OpenPage, stem: str) -> None:
    app = open_page(stem)
    assert not app.exception, app.exception[0].value
    assert not app.error, app.error[0].value
    said = texts(app)
    assert "stir " in said or stem == "harvest", said  # Harvest makes the first run itself


@pytest.mark.parametrize("run", ["two_habits", "smollm2"])
@pytest.mark.parametrize("stem", STEMS)
def test_the_embedded_runs(open_page: OpenPage, monkeypatch: pytest.MonkeyPatch, stem: str, run: str) -> None:
    monkeypatch.setattr(store_runs, "EMBEDDED_RUNS", EMBEDDED_RUNS)
    app = open_page(stem, run=run)
    assert app.selectbox(key="run").value == store_runs.ALIASES.get(run, run)
    assert not app.exception, app.exception[0].value
    assert not app.error, app.error[0].value
    assert len(texts(app)) > 200


@pytest.mark.parametrize("stem", STEMS)
def test_a_run_whose_model_is_not_here(open_page: OpenPage, fake: Path, monkeypatch: pytest.MonkeyPatch, stem: str) -> None:
    monkeypatch.setenv("STIR_RUNS", str(fake))  # looking at a run needs no model
    app = open_page(stem, run="fake")
    assert not app.exception, app.exception[0].value
    assert not app.error, app.error[0].value


@pytest.mark.parametrize("stem", STEMS)
def test_a_library_of_two_actions(open_page: OpenPage, two: Path, monkeypatch: pytest.MonkeyPatch, stem: str) -> None:
    monkeypatch.setenv("STIR_RUNS", str(two))
    app = open_page(stem, run="two")
    assert not app.exception, app.exception[0].value
    assert not app.error, app.error[0].value


@pytest.mark.parametrize("stem", STEMS)
def test_a_library_of_5000_entries_is_read_once(
    open_page: OpenPage, big: Path, work: Work, monkeypatch: pytest.MonkeyPatch, stem: str
) -> None:
    monkeypatch.setenv("STIR_RUNS", str(big))
    app = open_page(stem, run="big")
    assert not app.exception, app.exception[0].value
    assert not app.error, app.error[0].value
    with work.counted():
        app.run()
    assert not app.exception
    assert {Path(path).name for path in work.opened if path.startswith(str(big))} <= SMALL
    assert work.calls < CALLS_PER_ENTRY * 5000


def test_work_is_counted(work: Work, tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    with work.counted():
        thread = threading.Thread(target=lambda: (file.write_text("x"), store_runs.list_runs(tmp_path)))
        thread.start()
        thread.join()
    assert str(file) in work.opened and work.calls >= 1
