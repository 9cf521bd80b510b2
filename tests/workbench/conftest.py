"""Fixtures of the workbench's tests: fake runs, and the app on a store of them."""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit import config
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package: this is how test files share the builders
from fake_run import make_fake_run

from stir_core.store import runs as store_runs
from stir_core.store.runs import Run
from workbench.shared.facts import RunFacts

ROOT = Path(__file__).resolve().parents[2]
OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="session", autouse=True)
def components_are_looked_for_once() -> Iterator[None]:
    """Every new AppTest reads the metadata of all installed packages, for longer than a page needs to be drawn: once is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", functools.cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture(scope="session", autouse=True)
def the_server_listens_on_the_loopback() -> Iterator[None]:
    """As the config beside app.py says, which only ``streamlit run`` reads."""
    config.set_option("server.address", "127.0.0.1")
    yield
    config.set_option("server.address", None)


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run; read only."""
    return make_fake_run(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def facts(fake_run: Run) -> RunFacts:
    """The whole run's facts."""
    return RunFacts(fake_run)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store that the app looks at, without the embedded run."""
    root = tmp_path / "runs"
    root.mkdir()
    monkeypatch.setenv("STIR_RUNS", str(root))
    monkeypatch.setattr(store_runs, "EMBEDDED_RUNS", {})
    st.cache_resource.clear()
    return root


@pytest.fixture
def open_page(store: Path) -> OpenPage:
    """Opens a page by its file's stem, with query parameters; the script has run once when it returns."""

    def opened(stem: str, **query: str) -> AppTest:
        app = AppTest.from_file(str(ROOT / "workbench" / "app.py"), default_timeout=60)
        for key, value in query.items():
            app.query_params[key] = value
        if stem != "home":
            app.switch_page(f"../pages/{stem}.py")
        return app.run()

    return opened
