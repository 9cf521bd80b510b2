"""The Export page in a browser: starred actions for two targets, the warnings, and an archive that stir_core reads."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_run import make_fake_run  # pyright: ignore[reportMissingImports]
from playwright.sync_api import Browser, expect
from served_app import Watched, served, settle  # pyright: ignore[reportMissingImports]

from stir_core.curation import make_edit
from stir_core.deploy.bundle.reading import read_bundle
from stir_core.deploy.export import make_bundle
from stir_core.store.curation import Curation
from stir_core.store.runs import Run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROW = 31
"""Height of a table's rows and of its head, in pixels."""


@pytest.fixture
def starred(chrome: Browser, tmp_path: Path) -> Iterator[tuple[Watched, Run]]:
    """A server with one run that has two starred actions; tests write to its store."""
    run = make_fake_run(tmp_path / "runs")
    Curation.open(run).add(make_edit("star", ["p0001c", "p0002c"], who="a", when="2026-11-21T17:33:14Z"))
    with served(tmp_path / "runs", tmp_path / "server.log") as url:
        context = chrome.new_context(viewport={"width": 1440, "height": 1600})
        yield Watched(context.new_page(), url), run
        context.close()
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_starred_actions_are_exported_as_a_readable_archive(starred: tuple[Watched, Run], tmp_path: Path) -> None:
    watched, run = starred
    page = watched.page
    page.goto(f"{watched.url}/export?run=fake")
    settle(page)
    box = page.get_by_role("combobox", name="Actions")
    box.click()
    box.fill("Starred")
    box.press("Enter")
    expect(page.get_by_text("2 of 7 actions are exported, 4 entries")).to_be_visible()
    page.get_by_role("button", name="llama.cpp", exact=True).click()
    page.get_by_role("tab", name="llama.cpp").click()
    expect(page.get_by_text("the vector is added at every token, prompt included")).to_be_visible()
    expect(page.get_by_text("mostly length: p0001c.")).to_be_visible()
    page.get_by_role("tab", name="Bundle").click()
    with page.expect_download() as waiting:
        page.locator(".st-key-export_download_bundle button").click()
    assert waiting.value.suggested_filename == "fake-curated-starred-bundle.zip"
    with zipfile.ZipFile(waiting.value.path()) as packed:
        packed.extractall(tmp_path / "there")
    exported, wanted = read_bundle(tmp_path / "there" / "fake-curated-starred-bundle"), make_bundle(run, only="starred")
    assert exported.manifest == wanted.manifest and [entry.id for entry in exported.entries] == ["p0001c", "p0001n", "p0002c", "p0002n"]
    table = page.locator('[class*="st-key-export_table"] canvas').first.bounding_box()
    assert table is not None
    page.mouse.click(table["x"] + 18, table["y"] + ROW * 3.5)
    expect(page.get_by_text("1 of 7 actions are exported, 2 entries")).to_be_visible()
    expect(page).to_have_url(re.compile(r"[?&]only=ids%3Ap0002c(&|$)"))
    expect(page).to_have_url(re.compile(r"[?&]targets=bundle%2Cgguf(&|$)"))
    watched.check()
