"""The Curate page in a browser: star, tag and exclude with a reason; the history shows them after a reload."""

import pytest
from playwright.sync_api import expect
from served_app import Watched, settle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROW = 31
"""Height of a table's rows and of its head, in pixels."""


def tick(watched: Watched, *rows: int) -> None:
    """Tick rows of the table of entries, counted from 0."""
    for row in rows:
        box = watched.page.locator('[class*="st-key-curate_table"] canvas').first.bounding_box()
        assert box is not None
        watched.page.mouse.click(box["x"] + 18, box["y"] + ROW * (row + 1.5))
        settle(watched.page)


def edit(watched: Watched, what: str, *, why: str, value: str | None = None) -> None:
    """Edit the ticked rows; the button is clicked right after the last key, without waiting."""
    page = watched.page
    page.get_by_test_id("stButtonGroup").filter(has_text="leave to selection").get_by_role("radio", name=what, exact=True).click()
    settle(page)
    if value is not None:
        page.locator(".st-key-curate_value_tag input").fill(value)
    page.locator(".st-key-curate_why input").fill(why)
    page.locator(".st-key-curate_apply button").click()
    settle(page)


def cells(watched: Watched) -> set[str]:
    """Texts in the cells of all tables on the page."""
    grid_cells = watched.page.locator('[role="gridcell"]')
    grid_cells.first.wait_for(state="attached")
    return {text for text in grid_cells.all_text_contents() if text}


def test_star_tag_and_exclude_with_a_reason_are_there_after_a_reload(watched: Watched) -> None:
    page = watched.page
    page.goto(f"{watched.url}/curate?run=fake&action=p0000c")
    settle(page)
    tick(watched, 0, 1)
    expect(page.get_by_text("2 selected: p0000c, p0001c")).to_be_visible()
    edit(watched, "star", why="both hold up")
    expect(page.get_by_text("no row is ticked")).to_be_visible()
    tick(watched, 2)
    edit(watched, "tag", value="drops the carry", why="seen in the rollouts")
    tick(watched, 3)
    edit(watched, "exclude", why="mostly length")
    page.reload()
    settle(page)
    told = cells(watched)
    assert {"both hold up", "seen in the rollouts", "mostly length"} <= told
    assert {"star · p0000c, p0001c", "tag drops the carry · p0002c", "exclude · p0003c, p0003n"} <= told
    expect(page.get_by_text("version 3 · 2 starred, 1 tags, 2 entries excluded, 0 merged")).to_be_visible()
    page.locator(".st-key-curate_undo button").click()
    settle(page)
    expect(page.get_by_text("version 4 · 2 starred, 1 tags, 0 entries excluded, 0 merged")).to_be_visible()
    watched.check()
