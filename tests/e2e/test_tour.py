"""Performs every numbered line of docs/tour.md in a browser on the embedded run."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page
from served_app import ROOT, Watched, served, settle  # pyright: ignore[reportMissingImports]

pytestmark = [pytest.mark.e2e, pytest.mark.model, pytest.mark.timeout(900)]

TOUR = ROOT / "docs" / "tour.md"
LINE = re.compile(r"^(\d+)\. (Open|See|Press|Choose) \*\*(.+?)\*\*(?: in \*\*(.+?)\*\*)?\.$")
PATIENCE = 120_000


class Move(NamedTuple):
    """One numbered line."""

    number: int
    verb: str
    what: str
    where: str | None


def moves() -> list[Move]:
    """The numbered lines, in order."""
    numbered = [line for line in TOUR.read_text("utf-8").splitlines() if re.match(r"^\d+\. ", line)]
    matches = [match for line in numbered if (match := LINE.match(line))]
    assert len(matches) == len(numbered), [line for line in numbered if not LINE.match(line)]
    return [Move(int(match[1]), match[2], match[3], match[4]) for match in matches]


@pytest.fixture
def alone(chrome: Browser, tmp_path: Path) -> Iterator[Watched]:
    """A tab on a separate server with an empty store, as `make workbench` opens it. Edits stay in that store."""
    with served(tmp_path / "runs", tmp_path / "server.log") as url:
        context = chrome.new_context(viewport={"width": 1440, "height": 1400})
        yield Watched(context.new_page(), url)
        context.close()


def test_the_tour_works(alone: Watched) -> None:
    planned = moves()
    assert [move.number for move in planned] == list(range(1, len(planned) + 1)) and len(planned) > 20
    alone.page.goto(alone.url)
    settle(alone.page)
    for move in planned:
        make(alone.page, move)
    alone.check()


def make(page: Page, move: Move) -> None:
    """Perform a line by the visible labels."""
    if move.verb == "Open":
        page.get_by_role("link", name=move.what, exact=True).click()
        page.locator("h1", has_text=move.what).wait_for()
    elif move.verb == "Choose":
        assert move.where
        box = page.get_by_role("combobox", name=move.where).first
        box.click()
        box.fill(move.what)
        box.press("Enter")
    elif move.verb == "Press":
        target = page.get_by_role("button", name=move.what, exact=True)
        for role in ("radio", "tab"):
            target = target.or_(page.get_by_role(role, name=move.what, exact=True))
        target.first.click(timeout=PATIENCE)
    else:
        page.get_by_text(move.what).locator("visible=true").first.wait_for(timeout=PATIENCE)
        return
    settle(page, seconds=PATIENCE / 1000)
