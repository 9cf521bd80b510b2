"""``stir workbench --share`` as a process of its own, and a browser that is asked for the password."""

import re
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, expect
from served_app import Watched, served, settle

pytestmark = pytest.mark.e2e
PASSWORD = "correct horse"


def listening(port: int) -> set[str]:
    """Addresses at which a port is listened on."""
    found = [tuple(each.laddr) for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    return {str(address) for address, taken in found if taken == port}


def test_pages_are_shown_after_the_password(chrome: Browser, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with served(tmp_path / "runs", log, password=PASSWORD) as url:
        assert listening(int(url.rpartition(":")[2])) == {"0.0.0.0"}
        context = chrome.new_context()
        watched = Watched(context.new_page(), url)
        page = watched.page
        page.goto(f"{url}/actions?run=two_habits")
        page.get_by_label("Password", exact=True).fill("battery staple")
        expect(page.get_by_text("Actions")).to_have_count(0)
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_text("That is not the password.")).to_be_visible()
        expect(page.get_by_text("two_habits")).to_have_count(0)
        page.wait_for_timeout(1200)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_label("Password", exact=True).press("Enter")
        settle(page)
        expect(page.get_by_role("heading", name="Actions", exact=True)).to_be_visible()
        assert re.search(r"/actions\?.*run=two_habits", page.url)
        watched.check()
        context.close()
    assert PASSWORD not in log.read_text()
