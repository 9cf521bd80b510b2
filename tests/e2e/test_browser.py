"""A browser on the served workbench: pages open, clicks select, links restore, model text stays text, a prompt runs.

Tests what needs a browser; numbers are tested without one.
"""

import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from fake_run import NASTY  # pyright: ignore[reportMissingImports]
from playwright.sync_api import expect
from served_app import Watched, settle

from stir_core.store.runs import EMBEDDED_RUNS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
PAGES = {
    "home": "Home",
    "actions": "Actions",
    "basis": "Basis",
    "codebook": "Codebook",
    "latents": "Latents",
    "gates": "Gates",
    "evaluate": "Evaluate",
    "causal": "Causal",
    "trace": "Trace",
    "what_if": "What-if",
}
RUNS = [
    "fake",
    pytest.param(
        "smollm2",
        marks=pytest.mark.skipif(not (EMBEDDED_RUNS["smollm2"] / "run.json").is_file(), reason="no embedded run in this checkout"),
    ),
]


def go(watched: Watched, page: str, **query: str) -> None:
    """Open a page by its address and wait until it has settled."""
    path = "" if page == "home" else page
    pairs = "&".join(f"{key}={value}" for key, value in query.items())
    watched.page.goto(f"{watched.url}/{path}?{pairs}")
    settle(watched.page)


def chosen(watched: Watched, key: str) -> str | None:
    """The selection in the address."""
    return parse_qs(urlparse(watched.page.url).query).get(key, [None])[0]


def wait_for_choice(watched: Watched, key: str, *, other_than: str | None) -> str:
    """Wait until the address has this selection."""
    watched.page.wait_for_function(
        "([key, old]) => { const now = new URLSearchParams(location.search).get(key); return now && now !== old }", arg=[key, other_than]
    )
    settle(watched.page)
    selection = chosen(watched, key)
    assert selection is not None
    return selection


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens(watched: Watched, page: str, run: str) -> None:
    go(watched, page, run=run)
    expect(watched.page.locator("h1").first).to_have_text(PAGES[page])
    assert chosen(watched, "run") == run
    watched.check()


def test_a_row_of_actions_opens_its_card_and_other_pages_keep_the_selection(watched: Watched) -> None:
    go(watched, "actions", run="fake")
    before = chosen(watched, "action")
    box = watched.page.locator(".st-key-actions_table canvas").first.bounding_box()
    assert box is not None
    watched.page.mouse.click(box["x"] + 18, box["y"] + 35 + 2.5 * 35)
    entry = wait_for_choice(watched, "action", other_than=before)
    expect(watched.page.locator("strong", has_text=entry).first).to_be_visible()
    watched.page.get_by_role("link", name="Gates", exact=True).click()
    watched.page.locator("h1", has_text="Gates").wait_for()
    settle(watched.page)
    watched.page.get_by_role("link", name="Basis", exact=True).click()
    watched.page.locator("h1", has_text="Basis").wait_for()
    settle(watched.page)
    assert chosen(watched, "action") == entry
    watched.page.reload()
    settle(watched.page)
    assert chosen(watched, "action") == entry
    watched.check()


@pytest.mark.parametrize("run", RUNS)
def test_a_point_of_the_map_is_clicked(watched: Watched, run: str) -> None:
    go(watched, "basis", run=run)
    for turn in (5, 9):  # twice: the map must stay clickable
        before = chosen(watched, "action")
        points = watched.page.locator(".st-key-basis_map .scatterlayer .points path")
        box = points.nth(turn).bounding_box()
        assert box is not None
        watched.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        wait_for_choice(watched, "action", other_than=before)
    watched.check()


def test_a_cell_of_the_cosines_is_clicked(watched: Watched) -> None:
    go(watched, "basis", run="fake")
    before = chosen(watched, "action")
    watched.page.locator(".st-key-basis_heatmap .mark-rect path").nth(24 * 11 + 7).click()
    wait_for_choice(watched, "action", other_than=before)
    expect(watched.page.get_by_text("cosine of keys").first).to_be_visible()
    watched.check()


def test_a_cell_of_the_margins_opens_its_step(watched: Watched) -> None:
    go(watched, "gates", run="fake", problem="arithmetic/eval/0")
    expect(watched.page.get_by_text("library at m = 1")).to_be_visible()  # the first steered step
    watched.page.locator(".st-key-gates_heatmap .mark-rect path").nth(3).click()
    assert wait_for_choice(watched, "m", other_than=None) in {"2", "3"}
    watched.check()


def test_a_flip_opens_its_two_answers(watched: Watched) -> None:
    go(watched, "evaluate", run="fake", method="stir", answered="arithmetic/eval/1")
    before = chosen(watched, "answered")
    table = watched.page.locator(".st-key-evaluate_flips canvas").first
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    assert box is not None
    watched.page.mouse.click(box["x"] + 18, box["y"] + 35 + 2.5 * 35)
    assert wait_for_choice(watched, "answered", other_than=before) == "arithmetic/eval/3"
    expect(watched.page.get_by_text("wrong · extracted 2")).to_be_visible()
    watched.check()


def test_a_measured_action_is_clicked(watched: Watched) -> None:
    go(watched, "causal", run="fake", action="p0000c")
    points = watched.page.locator(".st-key-causal_actions .scatterlayer .points path")
    points.last.scroll_into_view_if_needed()
    box = points.last.bounding_box()
    assert box is not None
    watched.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    entry = wait_for_choice(watched, "action", other_than="p0000c")
    expect(watched.page.locator("strong", has_text=entry).first).to_be_visible()
    watched.check()


def test_model_text_is_text(watched: Watched) -> None:
    go(watched, "actions", run="fake", action="p0000c")
    expect(watched.page.get_by_text("<script>window.hacked = 1</script>").locator("visible=true").first).to_be_visible()
    expect(watched.page.locator(".strip").first).to_contain_text(NASTY.split(" ")[0])
    assert watched.page.evaluate("() => window.hacked") is None
    go(watched, "gates", run="fake", problem="arithmetic/eval/0", m="0")
    expect(watched.page.locator(".strip").first).to_contain_text("$x_1$ **bold** <img src=x onerror=alert(1)>")
    watched.check()


def test_a_prompt_runs_on_the_real_model(watched: Watched, tmp_path: Path) -> None:
    _needs_smollm2()
    go(watched, "trace", run="smollm2")
    watched.page.get_by_text("Free prompt").click()
    watched.page.get_by_label("Prompt", exact=True).fill("Tom has 3 apples and buys 4 more. How many apples does he have?")
    watched.page.get_by_label("Prompt", exact=True).press("Control+Enter")
    settle(watched.page)
    decode(watched)
    with watched.page.expect_download() as waiting:
        watched.page.get_by_role("button", name="Download both traces (JSON)").click()
    waiting.value.save_as(tmp_path / "trace.json")
    saved = json.loads((tmp_path / "trace.json").read_text())
    assert saved["vanilla"]["tokens_used"] > 0 and saved["steered"]["tokens_used"] > 0
    assert saved["command"].startswith("stir trace smollm2 ")
    watched.check()


def test_strength_zero_equals_vanilla_on_the_real_model(watched: Watched) -> None:
    _needs_smollm2()
    go(watched, "trace", run="smollm2")
    field = watched.page.get_by_role("spinbutton", name="Strength (k_scale)")
    field.fill("0")
    field.press("Enter")
    settle(watched.page)
    decode(watched)
    expect(watched.page.get_by_text("strength 0 equals vanilla")).to_be_visible()
    watched.check()


def test_stop_keeps_the_text_so_far(watched: Watched) -> None:
    _needs_smollm2()
    go(watched, "trace", run="smollm2")
    watched.page.get_by_role("button", name="Decode both answers").click()
    stop = watched.page.get_by_role("button", name="Stop decoding")
    stop.wait_for(timeout=120_000)
    watched.page.get_by_text(re.compile(r"control point 0 · (?:[2-9]|\d{2,}) tokens")).first.wait_for(timeout=120_000)
    stop.click()
    watched.page.get_by_text("Stopped before both answers had ended").wait_for(timeout=60_000)
    settle(watched.page)
    decode(watched)  # and the model is available again
    watched.check()


def decode(watched: Watched) -> None:
    """Press the button and wait for both answers."""
    watched.page.get_by_role("button", name="Decode both answers").click()
    watched.page.get_by_text("Stopped before both").wait_for(state="detached")
    watched.page.get_by_role("button", name="Stop decoding").wait_for(timeout=60_000)
    watched.page.get_by_role("button", name="Download both traces (JSON)").wait_for(timeout=300_000)
    settle(watched.page)


def _needs_smollm2() -> None:
    assert (EMBEDDED_RUNS["smollm2"] / "run.json").is_file(), "the embedded run ships with the package: a checkout without it is broken"
