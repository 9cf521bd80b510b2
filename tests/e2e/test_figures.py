"""A chart's links save it as SVG and PDF, drawn by Altair or by plotly alike; the report opens offline and runs nothing."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, expect
from served_app import Watched, settle

pytestmark = pytest.mark.e2e


def test_charts_are_saved_for_a_paper(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    for address, key, words in (("causal", "causal_arms", "random direction vs null"), ("actions", "lens_bars", "token and its id")):
        page.goto(f"{watched.url}/{address}?run=smollm2")
        settle(page)
        links = page.locator(f".st-key-figure_{key}")
        for name, begins in (("SVG", b"<svg"), ("PDF", b"%PDF")):
            link = links.get_by_role("button", name=name)
            expect(link).to_be_visible()
            with page.expect_download() as waiting:
                link.click()
            assert waiting.value.suggested_filename == f"{key}.{name.lower()}"
            file = tmp_path / waiting.value.suggested_filename
            waiting.value.save_as(file)
            assert file.read_bytes().startswith(begins)
        drawn = ElementTree.parse(tmp_path / f"{key}.svg").getroot()
        assert any(words in "".join(each.itertext()) for each in drawn.iter("{http://www.w3.org/2000/svg}text"))
    watched.check()


def test_a_report_opens_offline(watched: Watched, chrome: Browser, tmp_path: Path) -> None:
    page = watched.page
    page.goto(f"{watched.url}/report?run=two_habits")
    settle(page)
    page.get_by_role("button", name="Latent actions").click()  # left out
    settle(page)
    with page.expect_download(timeout=120_000) as waiting:
        page.get_by_role("button", name="Report (one HTML file)").click()
    waiting.value.save_as(tmp_path / "report.html")
    watched.check()
    offline = chrome.new_context(offline=True)
    file, complaints = offline.new_page(), []
    file.on("console", lambda message: complaints.append(message.text))
    file.goto((tmp_path / "report.html").as_uri())
    drawn = file.locator("img").evaluate_all("all => all.map(each => each.complete && each.naturalWidth > 100)")
    assert len(drawn) == 10 and all(drawn) and complaints == []
    expect(file.get_by_role("heading", name="Causal studies")).to_be_visible()
    expect(file.get_by_role("heading", name="Latent actions")).to_have_count(0)
    offline.close()
