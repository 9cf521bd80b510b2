"""Two browser tabs that decode at the same time on one server: each gets the same answer as alone."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page
from served_app import Watched, settle  # pyright: ignore[reportMissingImports]

from stir_core.store.runs import Run

pytestmark = pytest.mark.e2e


def opened(chrome: Browser, url: str, problem: str) -> Watched:
    """A tab with its own session, on one held-out problem of the embedded run."""
    tab = Watched(chrome.new_context(viewport={"width": 1440, "height": 1200}).new_page(), url)
    tab.page.goto(f"{url}/trace?run=smollm2&problem={quote(problem)}")
    settle(tab.page)
    return tab


def start(page: Page) -> None:
    """Press the button and wait until decoding has begun."""
    page.get_by_role("button", name="Decode both answers").click()
    page.get_by_role("button", name="Stop decoding").wait_for(timeout=90_000)


def ids(page: Page, folder: Path) -> dict[str, Any]:
    """Token ids of both answers, as downloaded from the page."""
    button = page.get_by_role("button", name="Download both traces (JSON)")
    button.wait_for(timeout=300_000)
    settle(page)
    with page.expect_download() as waiting:
        button.click()
    waiting.value.save_as(folder / "trace.json")
    saved = json.loads((folder / "trace.json").read_text())
    return {name: saved[name]["token_ids"] for name in ("vanilla", "steered")}


def test_two_tabs_decode_at_once_and_both_are_right(chrome: Browser, url: str, tmp_path: Path) -> None:
    recorded = Run.open("smollm2")
    expected = {name: {trace.id: list(trace.token_ids) for trace in recorded.traces(name)} for name in ("vanilla", "steered")}
    problems = sorted(expected["vanilla"], key=lambda id_: len(expected["vanilla"][id_]))[:2]
    tabs = [opened(chrome, url, problem) for problem in problems]
    for tab in tabs:
        start(tab.page)
    for tab, problem in zip(tabs, problems, strict=True):
        assert ids(tab.page, tmp_path) == {name: expected[name][problem] for name in ("vanilla", "steered")}
        tab.check()
        tab.page.context.close()
