"""Saved work in a browser: decoding outlives its page, a reload loses nothing, the address opens it elsewhere, and it is shared."""

from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect
from served_app import Watched, settle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
PROBLEM = "arithmetic/eval/sum_tiny:9+9"


def tokens(page: Page) -> list[str]:
    expect(page.get_by_role("button", name="Download as one HTML file")).to_be_visible(timeout=300_000)
    settle(page)
    return page.locator(".tv-token").all_inner_texts()


@pytest.mark.model
def test_what_was_decoded_is_kept_opened_and_shared(watched: Watched, chrome: Browser, tmp_path: Path) -> None:
    page = watched.page
    page.goto(f"{watched.url}/trace?run=smollm2&problem={quote(PROBLEM)}")
    settle(page)
    page.get_by_role("spinbutton", name="Max tokens").fill("24")
    page.get_by_role("spinbutton", name="Max tokens").press("Enter")
    settle(page)
    page.get_by_role("button", name="Decode both answers").click()
    page.wait_for_function("() => new URLSearchParams(location.search).get('saved')")
    (id_,) = parse_qs(urlsplit(page.url).query)["saved"]
    page.get_by_role("link", name="Home").first.click()  # while it is decoding, or just after
    settle(page)

    other = Watched(page.context.new_page(), watched.url)  # nothing but the address
    other.page.goto(f"{watched.url}/trace?saved={id_}")
    decoded = tokens(other.page)
    assert len(decoded) == 48
    expect(other.page.get_by_label("Held-out problem")).to_have_value(PROBLEM)
    other.page.reload()
    assert tokens(other.page) == decoded
    other.check()

    page.goto(f"{watched.url}/saved?saved={id_}")
    settle(page)
    expect(page.locator("strong", has_text="What is 9 + 9?")).to_be_visible()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Share as one HTML file").click()
    waiting.value.save_as(tmp_path / "shared.html")
    offline = chrome.new_context(offline=True)
    file, asked, complaints = offline.new_page(), [], []
    file.on("request", lambda request: asked.append(request.url))
    file.on("console", lambda message: complaints.append(message.text))
    file.goto((tmp_path / "shared.html").as_uri())
    assert file.locator(".tv-token").all_inner_texts() == decoded
    assert (asked, complaints) == ([(tmp_path / "shared.html").as_uri()], [])
    offline.close()

    with page.expect_download() as waiting:
        page.get_by_role("button", name="Share as a folder (zip)").click()
    waiting.value.save_as(tmp_path / "shared.zip")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete it for good").click()
    expect(page.get_by_text(id_[-8:])).to_have_count(0)
    page.get_by_text("Add saved work that a colleague shared").click()
    page.locator("input[type=file]").set_input_files(tmp_path / "shared.zip")
    page.get_by_role("button", name="Add it").click()
    expect(page.get_by_text("its digests are right")).to_be_visible()
    watched.check()
