"""The Compare page in a browser: the embedded run beside a copy of itself, selected by click and kept in the address."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import Browser
from served_app import Watched, served, settle

from stir_core.store.runs import EMBEDDED_RUNS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (EMBEDDED_RUNS["smollm2"] / "run.json").is_file(), reason="no embedded run in this checkout"),
]


@pytest.fixture
def beside_a_copy(chrome: Browser, tmp_path: Path) -> Iterator[Watched]:
    """A server whose store holds a copy of the embedded run."""
    shutil.copytree(EMBEDDED_RUNS["smollm2"], tmp_path / "runs" / "copy")
    with served(tmp_path / "runs", tmp_path / "server.log") as url:
        context = chrome.new_context(viewport={"width": 1440, "height": 1600})
        yield Watched(context.new_page(), url)
        context.close()
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def metrics(watched: Watched) -> list[str]:
    return watched.page.get_by_test_id("stMetricValue").all_inner_texts()


def test_the_embedded_run_and_a_copy_of_it_share_every_action(beside_a_copy: Watched) -> None:
    watched = beside_a_copy
    page = watched.page
    page.goto(f"{watched.url}/compare?run=smollm2&compared=copy")
    settle(page)
    shared, lost, gained = metrics(watched)
    assert int(shared) > 0 and (lost, gained) == ("0", "0")
    first = page.locator('[class*="st-key-compared_version"]').get_by_role("radio", name="all", exact=True)
    first.click()
    settle(page)
    assert parse_qs(urlparse(page.url).query)["compared_version"] == ["all"]
    more = metrics(watched)
    assert more[:2] == [shared, "0"] and int(more[2]) > 0, "all mined actions: what selection dropped is gained"
    page.reload()
    settle(page)
    assert metrics(watched) == more
    watched.check()
