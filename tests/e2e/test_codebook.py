"""The Codebook page in a browser: a click on a card chooses its code, and the address holds it."""

import pytest
from playwright.sync_api import expect
from served_app import Watched, settle  # pyright: ignore[reportMissingImports]
from test_browser import chosen, go, wait_for_choice  # pyright: ignore[reportMissingImports]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_card_chooses_its_code_and_a_reload_keeps_it(watched: Watched) -> None:
    go(watched, "codebook", run="two_habits", code="2")
    cards = watched.page.locator("button.card")
    expect(cards).to_have_count(4)
    expect(watched.page.locator("button.card.chosen")).to_have_attribute("aria-label", "code 2")
    cards.nth(3).click()
    assert wait_for_choice(watched, "code", other_than="2") == "3"
    watched.page.reload()
    settle(watched.page)
    assert chosen(watched, "code") == "3"
    expect(watched.page.locator("button.card.chosen")).to_have_attribute("aria-label", "code 3")
    expect(watched.page.get_by_text("Steps nearest to the mean of code 3")).to_be_visible()
    watched.check()
