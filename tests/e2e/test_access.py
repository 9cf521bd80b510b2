"""Accessibility of every page in one browser tab: axe-core in light and dark, titles and headings, a visible focus, phone widths."""

from pathlib import Path

import pytest

pytest.importorskip("axe_playwright_python", reason="axe-core is missing: pip install -e '.[e2e]'")

import axe_playwright_python as axe
from playwright.sync_api import Page, expect
from served_app import ROOT, Watched, settle  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.e2e
PAGES = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
WIDTHS = "() => { const main = document.querySelector('[data-testid=stMain]'); return [main.scrollWidth, main.clientWidth] }"
AXE = (Path(axe.__file__).parent / "axe.min.js").read_text("utf-8")


def findings(page: Page) -> list[tuple[str, str]]:
    """Serious findings of axe-core, and faults of headings: rule and element."""
    page.evaluate(AXE)
    violations = page.evaluate("async () => (await axe.run(document, { resultTypes: ['violations'] })).violations")
    rules = ("heading-order", "page-has-heading-one", "empty-heading")
    grave = [each for each in violations if each["impact"] in ("serious", "critical") or each["id"] in rules]
    return [(each["id"], node["html"][:160]) for each in grave for node in each["nodes"]]


@pytest.mark.timeout(600)
def test_every_page_is_accessible_and_fits_a_phone(watched: Watched) -> None:
    page, faults, titles = watched.page, [], set()
    for name in PAGES:
        page.set_viewport_size({"width": 1440, "height": 1200})
        page.emulate_media(color_scheme="light")
        page.goto(f"{watched.url}/{'' if name == 'home' else name}?run=smollm2")
        settle(page)
        titles.add(page.title())
        if page.locator("h1").count() != 1:
            faults.append((name, "light", "h1", page.locator("h1").all_inner_texts()))
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            settle(page)
            faults += [(name, scheme, *finding) for finding in findings(page)]
        page.set_viewport_size({"width": 390, "height": 844})
        settle(page)
        wide, width = page.evaluate(WIDTHS)
        if wide > width + 1:
            faults.append((name, "phone", "scrolls sideways", f"{wide} of {width} pixels"))
    assert not faults, "\n".join(map(str, faults))
    assert len(titles) == len(PAGES) >= 16 and all(title.endswith(" · STIR Workbench") for title in titles)
    watched.check()


def test_keys_reach_the_navigation_and_show_it_and_names_are_addresses(watched: Watched) -> None:
    page = watched.page
    page.goto(f"{watched.url}/what-if?run=fake&problem=arithmetic/eval/2")
    expect(page.locator("h1")).to_have_text("What-if")
    settle(page)
    assert "/what_if?" in page.url and "problem=arithmetic" in page.url
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Home", exact=True)
    for _ in range(8):
        if link.evaluate("each => each === document.activeElement"):
            break
        page.keyboard.press("Tab")
    assert link.evaluate("each => each === document.activeElement && getComputedStyle(each).outlineStyle === 'solid'")
    assert link.evaluate("each => parseFloat(getComputedStyle(each).outlineWidth)") >= 2
    watched.check()
