"""A chart's links save it as SVG and PDF, drawn by Altair or by plotly alike."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import expect
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
