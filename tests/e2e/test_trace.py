"""Trace in a browser, on the embedded model: tokens respond to mouse and keyboard, also in the downloaded file, offline."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect
from served_app import Watched, settle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
PROBLEM = "arithmetic/eval/sum_tiny:9+9"
"""A problem steered at its 25th token, with a margin far larger than rounding errors."""


@pytest.fixture
def decoded(watched: Watched) -> Watched:
    """The page with both answers of a held-out problem, limited to 48 tokens and read again."""
    page = watched.page
    page.goto(f"{watched.url}/trace?run=smollm2&problem={quote(PROBLEM)}")
    settle(page)
    field = page.get_by_role("spinbutton", name="Max tokens")
    field.fill("48")
    field.press("Enter")
    settle(page)
    page.get_by_role("button", name="Decode both answers").click()
    page.get_by_role("button", name="Download as one HTML file").wait_for(timeout=300_000)
    settle(page)
    return watched


def point_hold_release(page: Page) -> None:
    """Check the behaviour that the page and the file share."""
    panel, tokens = page.locator(".tv-panel"), page.locator(".tv-token")
    expect(panel).to_contain_text("Point at a token")
    tokens.nth(0).hover()
    expect(panel).to_contain_text("token 1 ")
    first = panel.inner_text()
    assert "vanilla answer · control point 0 · token 1 " in first and "rank" in first and "entropy" in first
    tokens.nth(1).hover()
    expect(panel).to_contain_text("token 2 ")
    assert panel.inner_text() != first
    tokens.nth(1).click()
    expect(panel).to_contain_text("Held")
    tokens.nth(0).hover()
    expect(panel).to_contain_text("token 2 ")
    page.keyboard.press("ArrowRight")
    expect(panel).to_contain_text("token 3 ")
    expect(panel).to_contain_text("Held")
    page.keyboard.press("ArrowDown")
    expect(panel).to_contain_text("steered answer · control point 0 · token 3 ")
    page.keyboard.press("Escape")
    expect(panel).not_to_contain_text("Held")
    tokens.nth(4).hover()
    expect(panel).to_contain_text("vanilla answer · control point 0 · token 5 ")


def colours(page: Page) -> list[str]:
    """The background colour of every token."""
    return page.locator(".tv-token").evaluate_all("spans => spans.map((span) => span.style.background)")


def jump(page: Page, saved: dict[str, Any]) -> None:
    """Jump to the first divergence; check both tokens and the KL shown there."""
    ids = [[token for step in saved[name]["steps"] for token in step["token_ids"]] for name in ("vanilla", "steered")]
    at = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    page.get_by_role("button", name="Jump to first divergence").click()
    page.wait_for_timeout(900)
    text = page.locator(".tv-panel").inner_text()
    reading = saved["readings"]["steered"][at]
    assert f"token {at + 1} · id {ids[1][at]}" in text and f"id {ids[0][at]} here" in text
    assert f"KL(steered ‖ vanilla) {reading['kl']:.3f} nats" in text and reading["kl"] > 0
    for part in (".tv-token.held", ".tv-panel"):
        box = page.locator(part).bounding_box()
        size = page.viewport_size
        assert box is not None and size is not None and 0 <= box["y"] < size["height"]
    page.keyboard.press("Escape")


def test_tokens_respond_on_the_page_and_in_the_file(decoded: Watched, chrome: Browser, tmp_path: Path) -> None:
    page = decoded.page
    page.set_viewport_size({"width": 1280, "height": 640})
    point_hold_release(page)
    for label, kind in (("Download both traces (JSON)", "json"), ("Download as one HTML file", "html")):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=label).click()
        waiting.value.save_as(tmp_path / f"trace.{kind}")
    saved = json.loads((tmp_path / "trace.json").read_text())
    assert [len(saved["readings"][name]) for name in ("vanilla", "steered")] == [48, 48]
    jump(page, saved)
    by_surprise = colours(page)
    page.get_by_role("button", name="KL", exact=True).click()
    by_kl = colours(page)
    kls = [reading["kl"] for name in ("vanilla", "steered") for reading in saved["readings"][name]]
    assert len(by_kl) == len(kls) == 96 and by_kl != by_surprise
    assert sum(map(bool, by_kl)) == sum(kl > 0 for kl in kls) > 0
    decoded.check()

    offline = chrome.new_context(viewport={"width": 1280, "height": 640}, offline=True)
    file, asked, complaints = offline.new_page(), [], []
    file.on("request", lambda request: asked.append(request.url))
    file.on("console", lambda message: complaints.append(message.text))
    file.on("pageerror", lambda error: complaints.append(str(error)))
    file.goto((tmp_path / "trace.html").as_uri())
    point_hold_release(file)
    jump(file, saved)
    heads = file.locator(".tv-strip").all_inner_texts()
    assert len(heads) >= 4
    expect(file.locator(".tv-token")).to_have_count(96)
    assert file.locator(".tv-pair > .tv-cell:last-child summary").count() == len(saved["steered"]["steps"])  # under the steered answer
    expect(file.locator("summary", has_text="gate at control point")).to_have_count(len(saved["steered"]["steps"]))
    assert (asked, complaints) == ([(tmp_path / "trace.html").as_uri()], [])
    offline.close()


def test_a_hostile_file_runs_nothing(chrome: Browser, tmp_path: Path) -> None:
    from fake_run import make_fake_run  # pyright: ignore[reportMissingImports]
    from test_trace_comparison import recorded  # pyright: ignore[reportMissingImports]
    from test_trace_export import HOSTILE  # pyright: ignore[reportMissingImports]

    from workbench.shared.facts import RunFacts
    from workbench.shared.trace_document import html

    recording = recorded(RunFacts(make_fake_run(tmp_path)), 0.5)
    tokens = recording.steps[1][1].tokens
    tokens[0] = tokens[0].replaced(token_id=5, text=HOSTILE, logprob=-1.0)
    recording.settings["question"] = HOSTILE
    (tmp_path / "hostile.html").write_text(html(recording, HOSTILE, seed=0, title=HOSTILE))
    context = chrome.new_context(offline=True)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto((tmp_path / "hostile.html").as_uri())
    expect(page.locator(".tv-token", has_text="</script><img src=x")).to_have_count(1)
    assert HOSTILE.split("&")[0].strip() in page.locator(".question").inner_text()
    assert page.evaluate("() => [window.hacked, document.images.length]") == [None, 0] and complaints == []
    # even injected markup could not run under this policy
    page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'window.hacked = 2'; document.body.append(s) }")
    page.evaluate("() => { const i = new Image(); i.src = 'http://tracker.invalid/x.png'; document.body.append(i) }")
    page.wait_for_timeout(200)
    assert page.evaluate("() => window.hacked") is None and any("Content Security Policy" in text for text in complaints)
    context.close()
