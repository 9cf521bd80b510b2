"""The Basis page in a browser: click, lasso, heatmap cell, sliders, keys, and a link that restores the state."""

import re

import pytest
from playwright.sync_api import expect
from served_app import Watched, settle
from test_browser import chosen, go, wait_for_choice  # pyright: ignore[reportMissingImports]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def ring(watched: Watched, what: str = "chosen") -> tuple[float, float]:
    """Screen position of a ring of the overlay."""
    place = watched.page.locator(f"svg.map-marks circle.{what}")
    place.wait_for(state="attached")
    box = place.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def lasso(watched: Watched, corners: list[tuple[float, float]]) -> None:
    """Drag a lasso through corners given as fractions of the plot."""
    page = watched.page
    box = page.locator(".st-key-basis_map .nsewdrag").first.bounding_box()
    assert box is not None
    page.locator(".st-key-basis_map").hover()
    page.locator('.st-key-basis_map .modebar-btn[data-val="lasso"]').click()
    places = [(box["x"] + across * box["width"], box["y"] + down * box["height"]) for across, down in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


def test_a_point_rings_and_a_reload_restores_it(watched: Watched) -> None:
    go(watched, "basis", run="fake", basis_colour="quality")
    before = chosen(watched, "action")
    point = watched.page.locator(".st-key-basis_map .scatterlayer .points path").nth(7)
    box = point.bounding_box()
    assert box is not None
    centre = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    watched.page.mouse.click(*centre)
    entry = wait_for_choice(watched, "action", other_than=before)
    assert ring(watched) == pytest.approx(centre, abs=3)
    expect(watched.page.locator("svg.map-marks .near")).to_have_count(8)
    watched.page.reload()
    settle(watched.page)
    assert chosen(watched, "action") == entry and chosen(watched, "basis_colour") == "quality"
    expect(watched.page.locator("strong", has_text=entry).first).to_be_visible()
    assert ring(watched) == pytest.approx(centre, abs=6)
    watched.check()


def test_a_lasso_makes_a_table_and_a_cell_a_pair_on_the_map(watched: Watched) -> None:
    go(watched, "basis", run="fake")
    lasso(watched, [(0.02, 0.02), (0.6, 0.02), (0.6, 0.98), (0.02, 0.98), (0.02, 0.04)])
    heading = watched.page.get_by_role("heading", name="entries in the lasso")
    heading.wait_for()
    settle(watched.page)
    n = int(heading.inner_text().split()[0])
    assert 1 < n < 24
    expect(watched.page.locator("svg.map-marks .lassoed")).to_have_count(n)
    cells = watched.page.locator(".st-key-basis_heatmap .role-mark.mark-rect path")
    assert cells.count() >= n * n  # the legend may have one too
    expect(watched.page.get_by_text(f"n = {n} keys in the lasso")).to_be_visible()
    cells.nth(n + 2).click()
    watched.page.wait_for_function("() => new URLSearchParams(location.search).get('other')")
    settle(watched.page)
    expect(watched.page.locator("svg.map-marks .pair")).to_have_count(1)
    assert ring(watched) != ring(watched, "other")
    assert int(heading.inner_text().split()[0]) == n  # the map kept its lasso
    watched.check()


def test_a_slider_selects_again_and_keys_step_through_the_picks(watched: Watched) -> None:
    go(watched, "basis", run="smollm2", basis_view="Select again")
    page = watched.page
    said = page.get_by_text(re.compile(r"own settings: 64 picks, 64 kept, 0 gained, 0 lost"))
    said.wait_for()
    slider = page.get_by_role("slider").first
    slider.focus()
    for _ in range(3):
        slider.press("ArrowLeft")
    page.get_by_text(re.compile(r"budget 61: 61 picks, 61 kept, 0 gained, 3 lost")).wait_for()
    page.locator('[data-testid="stCode"]', has_text="basis.budget=61 --redo basis").wait_for()
    page.get_by_text("Replay", exact=True).click()
    page.get_by_text("64 of 64").wait_for()
    settle(page)
    page.locator("h1").first.click()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("63 of 64").wait_for()
    settle(page)
    watched.check()
