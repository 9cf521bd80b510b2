"""Gates in a browser: arrow keys step, sliders recompute decisions, the address restores both, map points open their steps."""

import re
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import expect
from served_app import Watched, settle  # pyright: ignore[reportMissingImports]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def chosen(watched: Watched, key: str) -> str | None:
    """The selection in the address."""
    return parse_qs(urlparse(watched.page.url).query).get(key, [None])[0]


def wait_until(watched: Watched, key: str, value: str) -> None:
    """Wait until the address has this selection and the page has settled."""
    watched.page.wait_for_function("([key, value]) => new URLSearchParams(location.search).get(key) === value", arg=[key, value])
    settle(watched.page)


def go(watched: Watched, query: str) -> None:
    watched.page.goto(f"{watched.url}/gates?{query}")
    settle(watched.page)


def test_arrow_keys_step_through_the_recording(watched: Watched) -> None:
    go(watched, "run=fake&problem=arithmetic/eval/0&m=1")
    page = watched.page
    page.keyboard.press("ArrowRight")
    wait_until(watched, "m", "2")
    expect(page.get_by_text("library at m = 2")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    wait_until(watched, "m", "1")
    page.keyboard.press("Shift+ArrowRight")
    wait_until(watched, "problem", "arithmetic/eval/1")
    assert chosen(watched, "m") == "1"
    page.reload()
    settle(page)
    assert (chosen(watched, "problem"), chosen(watched, "m")) == ("arithmetic/eval/1", "1")
    expect(page.get_by_text("library at m = 1")).to_be_visible()
    watched.check()


def test_a_slider_flips_decisions_and_the_address_keeps_it(watched: Watched) -> None:
    go(watched, "run=fake&problem=arithmetic/eval/0&m=1")
    page = watched.page
    expect(page.get_by_text(re.compile(r"all \d+ decisions come out as recorded"))).to_be_visible()
    slider = page.locator(".st-key-gates_k_scale").get_by_role("slider")
    slider.focus()
    slider.press("Home")
    wait_until(watched, "gates_k_scale", "0")
    badge = page.get_by_text(re.compile(r"decided again with other settings: \d+ of \d+ decisions flip"))
    expect(badge).to_contain_text("action → null")
    said = badge.inner_text()
    assert chosen(watched, "m") == "1"
    expect(page.get_by_text(re.compile("control point 1: action → null · decided"))).to_be_visible()
    page.reload()
    settle(page)
    expect(badge).to_have_text(said)
    expect(slider).to_have_value("0")
    slider.focus()
    slider.press("ArrowRight")  # a key press on the slider does not change the step
    page.wait_for_function("() => new URLSearchParams(location.search).get('gates_k_scale') !== '0'")
    settle(page)
    assert chosen(watched, "m") == "1"
    page.get_by_role("button", name="Reset", exact=True).click()
    page.get_by_text(re.compile(r"all \d+ decisions come out as recorded")).wait_for()
    watched.check()


def test_a_point_of_the_margin_map_opens_its_step(watched: Watched) -> None:
    go(watched, "run=fake&problem=arithmetic/eval/0&m=0&gates_tab=All+answers")  # step 0 is never steered: no point of it
    page = watched.page
    point = page.locator(".st-key-gates_map .scatterlayer .points path").last
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.get_by_role("tab", name="One answer")).to_have_attribute("aria-selected", "true")
    settle(page)
    m = chosen(watched, "m")
    assert m != "0" and chosen(watched, "problem")
    expect(page.get_by_text(f"library at m = {m}:")).to_be_visible()
    watched.check()
