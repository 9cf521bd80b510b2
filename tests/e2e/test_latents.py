"""The Latents page in a browser: a latent is clicked and looked into, a problem is drawn, and the address restores all of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from served_app import Watched, served, settle  # pyright: ignore[reportMissingImports]

from stir_core.latent.frame import LatentRecipe
from stir_core.latent.training import train_latent

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def trained(chrome: Browser, tmp_path: Path) -> Iterator[Watched]:
    """A tab on a server whose store holds a reasoner that is hardly trained."""
    recipe = LatentRecipe(d_model=16, layers=2, heads=2, written=2, stage=1, final=2, batch=4, checkpoint=2)
    train_latent("atp", tmp_path / "runs" / "tiny", recipe=recipe)
    with served(tmp_path / "runs", tmp_path / "server.log") as url:
        context = chrome.new_context(viewport={"width": 1440, "height": 1600})
        yield Watched(context.new_page(), url)
        context.close()


def test_a_latent_is_clicked_and_a_problem_is_drawn(trained: Watched) -> None:
    page = trained.page
    page.goto(f"{trained.url}/latents?latent=tiny")
    page.get_by_role("button", name="latent z1", exact=True).wait_for(timeout=300_000)  # the model is loaded
    settle(page)
    expect(page.get_by_text("truth <<7+3=10>>")).to_be_visible()
    page.get_by_role("button", name="latent z2", exact=True).click()
    expect(page.get_by_text("Latent z2 of step 1")).to_be_visible()
    settle(page)
    page.get_by_role("button", name="Another problem").click()
    expect(page.get_by_label("Problem", exact=True)).not_to_have_value("7+3*5-2?")
    settle(page)
    drawn = page.get_by_label("Problem", exact=True).input_value()
    page.reload()
    settle(page)
    expect(page.get_by_label("Problem", exact=True)).to_have_value(drawn)
    expect(page.get_by_text("Latent z2 of step 1")).to_be_visible()
    page.get_by_label("Problem", exact=True).fill("7+?")
    page.get_by_label("Problem", exact=True).press("Enter")
    expect(page.get_by_text("is no chain of operations")).to_be_visible()
    page.get_by_label("Problem", exact=True).fill("7+3*5-2?")
    page.get_by_label("Problem", exact=True).press("Enter")
    expect(page.get_by_text("is no chain of operations")).to_have_count(0)
    settle(page)
    trained.check()
