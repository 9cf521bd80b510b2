"""The Actions page in a browser, on the embedded model: a row opens its card, a commit selects its step, the button measures."""

from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import expect
from served_app import Watched, settle

from stir_core.store.runs import EMBEDDED_RUNS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
FIGURES = {"Layers": 2, "Next tokens": 2, "Attention": 1, "Dose-response": 1}
"""Number of charts of each tab."""


def chosen(watched: Watched, key: str) -> str | None:
    """The selection in the address."""
    return parse_qs(urlparse(watched.page.url).query).get(key, [None])[0]


def click_row(watched: Watched, table: str, row: int) -> None:
    """Click the box before a row of a table."""
    canvas = watched.page.locator(f"{table} canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    watched.page.mouse.click(box["x"] + 18, box["y"] + 35 + (row + 0.5) * 35)


def wait_for(watched: Watched, key: str, other_than: str | None) -> str:
    """Wait until the address has this selection."""
    watched.page.wait_for_function(
        "([key, old]) => { const now = new URLSearchParams(location.search).get(key); return now && now !== old }", arg=[key, other_than]
    )
    settle(watched.page)
    selection = chosen(watched, key)
    assert selection is not None
    return selection


def test_a_row_a_firing_a_measurement_and_a_reload(watched: Watched) -> None:
    assert (EMBEDDED_RUNS["smollm2"] / "run.json").is_file(), "the embedded run ships with the package: a checkout without it is broken"
    page = watched.page
    page.goto(f"{watched.url}/actions?run=smollm2&action=p0004c")
    settle(page)
    click_row(watched, ".st-key-actions_table", 6)
    entry = wait_for(watched, "action", other_than="p0004c")
    expect(page.locator("strong", has_text=entry).first).to_be_visible()
    entry = "p0006c"
    page.goto(f"{watched.url}/actions?run=smollm2&action={entry}")
    settle(page)
    expect(page.get_by_text("⟦state, m = 2⟧")).to_have_count(2)  # the right and the wrong answer
    before = chosen(watched, "at")
    click_row(watched, f".st-key-actions_firings_{entry}", 1)
    place = wait_for(watched, "at", other_than=before)
    assert place == f"{chosen(watched, 'problem')}:{chosen(watched, 'm')}"
    expect(page.get_by_text("Not measured yet")).to_be_visible()
    page.get_by_role("button", name="Measure on the model").click()
    page.get_by_text("KL at the control point").first.wait_for(timeout=400_000)
    settle(page)
    look_at_figures(watched)
    measured = page.locator("[data-testid=stMetricValue]").all_inner_texts()
    page.reload()
    settle(page)
    assert (chosen(watched, "action"), chosen(watched, "at")) == (entry, place)
    assert page.locator("[data-testid=stMetricValue]").all_inner_texts() == measured  # stored, not measured again
    page.get_by_role("link", name="Open the chosen step in Gates").click()
    page.locator("h1", has_text="Gates").wait_for()
    settle(page)
    assert place == f"{chosen(watched, 'problem')}:{chosen(watched, 'm')}"
    watched.check()


def look_at_figures(watched: Watched) -> None:
    """Check that every tab draws its figures."""
    page = watched.page
    for tab, n in FIGURES.items():
        page.get_by_role("tab", name=tab, exact=True).click()
        charts = page.get_by_role("tabpanel", name=tab, exact=True).locator('[data-testid="stVegaLiteChart"]:visible')
        charts.nth(n - 1).wait_for()
        expect(charts).to_have_count(n)


def test_the_meaning_of_an_action_is_read_tab_by_tab(watched: Watched) -> None:
    page = watched.page
    page.goto(f"{watched.url}/actions?run=two_habits&action=p0005c")
    settle(page)
    expect(page.get_by_text("n = 1,234 steps, all of all rollouts; 16 problems")).to_be_visible()
    expect(page.get_by_role("tabpanel", name="Steps along it").locator('[data-testid="stVegaLiteChart"]:visible')).to_have_count(1)
    click_row(watched, ".st-key-actions_steps_along_p0005c", 0)
    expect(page.get_by_text("⟦step 2⟧")).to_be_visible()  # the answer that it belongs to
    expect(page.locator("span.steered", has_text="now 23 minus 4 gives 19")).to_be_visible()
    page.get_by_role("tab", name="Subspace and erasure", exact=True).click()
    expect(page.get_by_text("Cannot tell whether it separates right from wrong steps of other problems")).to_be_visible()
    erased = page.get_by_role("tabpanel", name="Subspace and erasure")
    expect(erased.get_by_text("stir show two_habits p0005c")).to_be_visible()
    expect(erased.locator("canvas").first).to_be_visible()
    page.get_by_role("tab", name="Other runs", exact=True).click()
    expect(page.get_by_text("No other run of this model has actions at layer 1.")).to_be_visible()
    page.reload()
    settle(page)
    assert chosen(watched, "meaning") == "Other runs"
    expect(page.get_by_role("tab", name="Other runs", exact=True)).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Jacobian lens", exact=True).click()
    page.get_by_role("button", name="Read on the model").click()
    page.get_by_text("Mean over n = 16 answers").wait_for(timeout=200_000)
    expect(page.get_by_role("tabpanel", name="Jacobian lens").locator('[data-testid="stVegaLiteChart"]:visible')).to_have_count(2)
    watched.check()
