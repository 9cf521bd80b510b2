"""The served workbench, started once for all browser tests, with the embedded run and a fake run."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "workbench")]  # tests/e2e is not a package; this lets test files import shared helpers
pytest.importorskip("playwright", reason="the browser tests need playwright: pip install -e '.[e2e]'")

from fake_evaluation import make_fake_causal, make_fake_evaluation  # noqa: E402  # pyright: ignore[reportMissingImports]
from fake_run import make_fake_run  # noqa: E402  # pyright: ignore[reportMissingImports]
from playwright.sync_api import Browser  # noqa: E402
from served_app import Watched, browser, chromium, served  # noqa: E402


@pytest.fixture(scope="session")
def chrome() -> Iterator[Browser]:
    """One headless browser."""
    named = os.environ.get("STIR_CHROMIUM")
    assert named is None or Path(named).is_file(), f"STIR_CHROMIUM names {named}, which is not there"
    if chromium() is None:
        pytest.skip("no chromium on this machine: install one, or name it in STIR_CHROMIUM")
    with browser() as launched:
        yield launched


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the real server, whose store holds a run named ``fake`` with an evaluation and a causal study."""
    folder = tmp_path_factory.mktemp("served")
    run = make_fake_run(folder / "runs")
    make_fake_evaluation(run)
    make_fake_causal(run)
    with served(folder / "runs", folder / "server.log") as address:
        yield address
    log = (folder / "server.log").read_text()
    assert "Traceback" not in log, log[-3000:]


@pytest.fixture
def watched(chrome: Browser, url: str) -> Iterator[Watched]:
    """A fresh tab."""
    context = chrome.new_context(viewport={"width": 1440, "height": 1600})
    yield Watched(context.new_page(), url)
    context.close()
