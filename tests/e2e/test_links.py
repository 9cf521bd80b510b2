"""Links in a browser: the address of every page contains the selection; reload, back and a copied link restore it."""

from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect
from served_app import Watched, settle  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.e2e


def open_page(watched: Watched, page: str, **query: str) -> None:
    """Open a page of the fake run at an address."""
    parts = "&".join(f"{key}={value}" for key, value in {"run": "fake", **query}.items())
    watched.page.goto(f"{watched.url}/{page}?{parts}")
    settle(watched.page)


def held(watched: Watched) -> dict[str, str]:
    """The current selection in the address."""
    return {key: values[-1] for key, values in parse_qs(urlsplit(watched.page.url).query).items()}


def visit(watched: Watched, name: str) -> None:
    """Go to a page by its name in the navigation."""
    watched.page.get_by_role("link", name=name, exact=True).click()
    watched.page.locator("h1", has_text=name).wait_for()
    settle(watched.page)


def test_pages_keep_selections_that_they_do_not_show(watched: Watched) -> None:
    asked = {"run": "fake", "action": "p0003c", "problem": "arithmetic/eval/1", "m": "1"}
    open_page(watched, "gates", **asked)
    assert held(watched).items() >= asked.items()  # the Gates page draws no widget for the action
    visit(watched, "Actions")
    assert held(watched).items() >= asked.items()  # and the Actions page has none for problem and step
    watched.page.reload()  # a new session: only the address has the selection
    settle(watched.page)
    assert held(watched).items() >= asked.items()
    visit(watched, "Gates")
    assert held(watched).items() >= asked.items()
    watched.check()


def test_back_restores_the_page_and_its_selection(watched: Watched) -> None:
    open_page(watched, "actions", action="p0003c")
    visit(watched, "Causal")
    assert held(watched)["action"] == "p0003c"
    watched.page.go_back()
    watched.page.locator("h1", has_text="Actions").wait_for()
    settle(watched.page)
    assert held(watched)["action"] == "p0003c"
    expect(watched.page.locator("strong", has_text="p0003c").first).to_be_visible()
    watched.check()


def test_back_undoes_a_selection_on_the_page(watched: Watched) -> None:
    open_page(watched, "actions", action="p0003c")
    box = watched.page.get_by_role("combobox", name="Entry")
    box.click()
    box.fill("p0004c")
    box.press("Enter")
    watched.page.locator("strong", has_text="p0004c").first.wait_for()
    settle(watched.page)
    assert held(watched)["action"] == "p0004c"
    watched.page.go_back()
    watched.page.locator("strong", has_text="p0003c").first.wait_for()
    settle(watched.page)
    assert held(watched)["action"] == "p0003c"
    watched.check()


def test_a_copied_link_is_the_address(watched: Watched) -> None:
    watched.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=watched.url)
    open_page(watched, "actions", action="p0004c", problem="arithmetic/eval/1")
    watched.page.get_by_role("button", name="Copy link").click()
    watched.page.get_by_role("button", name="Copied").wait_for()
    copied = watched.page.evaluate("() => navigator.clipboard.readText()")
    assert copied == watched.page.url and "action=p0004c" in copied and "problem=arithmetic" in copied
    watched.check()
