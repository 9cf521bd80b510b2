"""A run started from the Harvest page: followed, cancelled, resumed, found by another server, opened."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from served_app import Watched, served, settle

from stir_core.store.runs import Run
from workbench.jobs import JobStore

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """A private store; jobs that a failed test leaves running are ended."""
    folder = tmp_path / "runs"
    yield folder
    for each in JobStore(folder).running():
        JobStore(folder).cancel(each.job.id, grace=5).join(10)


def fill(page: Page, label: str, text: str) -> None:
    """Type into a field and wait until the page has accepted it."""
    field = page.get_by_label(label, exact=True).first
    field.fill(text)
    field.press("Enter")
    settle(page)


def test_a_small_run_from_the_form_to_its_pages(chrome: Browser, runs: Path, tmp_path: Path) -> None:
    with ExitStack() as server:
        tab = Watched(chrome.new_page(), server.enter_context(served(runs, tmp_path / "one.log")))
        tab.page.goto(f"{tab.url}/harvest")
        settle(tab.page)
        for label, text in (("Run name", "tiny"), ("task.n_train", "2"), ("rollouts.k", "2"), ("rollouts.max_new_tokens", "16")):
            fill(tab.page, label, text)
        until = tab.page.locator(".st-key-harvest_until input")
        until.click()
        until.fill("rollouts")
        until.press("Enter")
        settle(tab.page)
        expect(tab.page.get_by_text("--set task.n_train=2 --set rollouts.k=2").first).to_be_visible()
        tab.page.get_by_role("button", name="Start", exact=True).click()
        job = tab.page.locator("[class*=st-key-harvest_job_tiny]")
        job.get_by_text("running", exact=True).wait_for(timeout=20_000)
        job.get_by_role("button", name="Cancel").click()
        job.get_by_text("stopped", exact=True).wait_for(timeout=30_000)
        job.get_by_role("button", name="Resume").click()
        job.get_by_text("running", exact=True).wait_for(timeout=20_000)
        tab.check()
        tab.page.close()
    assert [each.state for each in JobStore(runs).all()[0]] in (["running"], ["finished"])  # the server has ended, the run has not
    with served(runs, tmp_path / "two.log") as url:
        tab = Watched(chrome.new_page(), url)
        tab.page.goto(f"{url}/harvest")
        settle(tab.page)
        job = tab.page.locator("[class*=st-key-harvest_job_tiny]")
        job.get_by_text("of 4 rollouts").first.wait_for(timeout=60_000)
        job.get_by_text("finished", exact=True).wait_for(timeout=60_000)
        tab.page.reload()
        settle(tab.page)
        expect(job.get_by_text("4 of 4 rollouts").first).to_be_visible()
        expect(job.get_by_text("right so far")).to_be_visible()  # also while they are sampled
        expect(job.locator(".strip").first).not_to_be_empty()
        job.get_by_role("button", name="Show this run on all pages").click()
        tab.page.wait_for_url("**run=tiny*")
        settle(tab.page)
        expect(tab.page.locator("h1").first).to_have_text("Home")
        tab.check()
        tab.page.close()
    assert Run.open(runs / "tiny").manifest("rollouts").counts["rollouts"] == 4
