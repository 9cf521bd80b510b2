"""Every page on every kind of store: none, the embedded run, a run of another model, a library of two actions, one of 5,000 entries."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit as st
from big_run import make_big_run  # pyright: ignore[reportMissingImports]
from fake_run import make_fake_run  # pyright: ignore[reportMissingImports]
from streamlit.testing.v1 import AppTest

from stir_core.store import runs as store_runs

ROOT = Path(__file__).resolve().parents[2]
STEMS = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
DEMO = store_runs.DEMO
SECONDS = 3.0
"""Processor time that a page may take once its data is cached. Not wall-clock time: machines are shared."""

OpenPage = Callable[..., AppTest]


def texts(app: AppTest) -> str:
    """Everything that the page says in words."""
    kinds = (app.markdown, app.caption, app.info, app.warning, app.error, app.code, app.subheader, app.text)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


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
    assert not app.error
    said = texts(app)
    assert "stir " in said or stem == "harvest", said  # Harvest makes the first run itself


@pytest.mark.parametrize("stem", STEMS)
def test_the_embedded_run(open_page: OpenPage, monkeypatch: pytest.MonkeyPatch, stem: str) -> None:
    monkeypatch.setattr(store_runs, "DEMO", DEMO)
    app = open_page(stem, run="demo")
    assert not app.exception, app.exception[0].value
    assert not app.error
    assert len(texts(app)) > 200


@pytest.mark.parametrize("stem", STEMS)
def test_a_run_whose_model_is_not_here(open_page: OpenPage, store: Path, stem: str) -> None:
    make_fake_run(store)  # made with a model that exists nowhere: looking at it needs none
    app = open_page(stem, run="fake")
    assert not app.exception, app.exception[0].value
    assert not app.error


@pytest.mark.parametrize("stem", STEMS)
def test_a_library_of_two_actions(open_page: OpenPage, store: Path, stem: str) -> None:
    run = make_big_run(store, n=4, width=32, budget=2, name="two")
    assert sum(entry.kind == "corrective" for entry in run.entries()) == 2
    app = open_page(stem, run="two")
    assert not app.exception, app.exception[0].value
    assert not app.error


@pytest.mark.parametrize("stem", STEMS)
def test_a_library_of_5000_entries_in_time(
    open_page: OpenPage, big: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stem: str
) -> None:
    monkeypatch.setenv("STIR_RUNS", str(big))
    st.cache_resource.clear()
    app = open_page(stem, run="big")
    assert not app.exception, app.exception[0].value
    assert not app.error
    started = time.process_time()
    app.run()
    taken = time.process_time() - started
    assert not app.exception
    assert taken < SECONDS, f"{stem}: {taken:.1f} s of processor time"
