"""The ten tasks of docs/usability.md, done from Home in a headless browser: `python tests/e2e/usability.py [TASK ...]`.

Prints for each task the clicks, the characters typed, the seconds of the machine, and what the page answers.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Error, Locator, Page
from served_app import browser, served, settle

LONG = 90_000
TASKS: list[Callable[["Newcomer"], str]] = []


class Newcomer:
    """Does one task in a fresh tab by what the pages say, and counts what it takes."""

    def __init__(self, page: Page, url: str):
        self.page, self.url = page, url
        self.clicks = self.typed = 0
        page.goto(url)
        settle(page)

    def click(self, what: Locator) -> None:
        """One click, and what the page makes of it."""
        what.first.click(timeout=LONG)
        self.clicks += 1
        settle(self.page)

    def press(self, name: str) -> None:
        """Click what is called so: a button, a tab, a choice or a link."""
        target = self.page.get_by_role("button", name=name, exact=True)
        for role in ("radio", "tab", "link"):
            target = target.or_(self.page.get_by_role(role, name=name, exact=True))
        self.click(target)

    def write(self, label: str, text: str) -> None:
        """Type into a field and leave it."""
        field = self.page.get_by_label(label, exact=True).first
        field.fill(text)
        field.blur()
        self.typed += len(text)
        settle(self.page)

    def choose(self, label: str, text: str) -> None:
        """Open a list and take an item; two clicks."""
        box = self.page.get_by_role("combobox", name=label).first
        box.click()
        box.fill(text)
        box.press("Enter")
        self.clicks += 2
        settle(self.page)

    def decoded(self) -> None:
        """Wait until what is being decoded has ended."""
        self.page.wait_for_timeout(1500)
        self.page.get_by_role("button", name="Stop decoding").wait_for(state="detached", timeout=LONG)
        settle(self.page)

    def read(self, pattern: str) -> str:
        """What the page says there, in one line."""
        found = self.page.get_by_text(re.compile(pattern)).locator("visible=true").first
        found.wait_for(timeout=LONG)
        return " ".join(found.inner_text().split())

    def saved(self, name: str) -> str:
        """Click a download and return its file's name and size."""
        with self.page.expect_download(timeout=LONG) as download:
            self.page.get_by_role("button", name=name, exact=True).first.click()
        self.clicks += 1
        file = Path(download.value.path())
        return f"{download.value.suggested_filename}, {file.stat().st_size // 1000} kB"


def task(done: Callable[[Newcomer], str]) -> Callable[[Newcomer], str]:
    """Put a task on the list; its docstring is the task."""
    TASKS.append(done)
    return done


@task
def most_fired(new: Newcomer) -> str:
    """Find the action that fires most, and say whether it is real."""
    new.press("What did it find?")
    return f"{new.read('corrective entry of pair')}: {new.read('^Advantage ')}; {new.read('^(mostly length|labels do not matter)')}"


@task
def what_without(new: Newcomer) -> str:
    """Answer "what without it?" for a prompt of one's own, and send the result to a colleague."""
    new.choose("Run", "smollm2")
    new.press("Trace")
    new.press("Free prompt")
    new.write("Prompt", "Tom has 3 boxes with 4 apples each and eats 2. How many are left?")
    new.press("Decode both answers")
    new.decoded()
    new.press("What if one decision had been another?")
    new.click(new.page.locator(".st-key-what_if_branch button"))
    new.decoded()
    outcome = new.read("from the recorded trace from token|equals the recorded trace")
    new.press("Share the branch as one HTML file")
    return f"{outcome}; sent: {new.saved('Share as one HTML file')}"


@task
def does_it_help(new: Newcomer) -> str:
    """Say whether steering helps on the real model, and how sure that is."""
    new.choose("Run", "smollm2")
    return new.read("Held-out answers of the run")


@task
def why_steered(new: Newcomer) -> str:
    """Say why a step was steered."""
    new.press("Why was this step steered?")
    return new.read("> null")


@task
def where_lost(new: Newcomer) -> str:
    """Find the place where a wrong answer was lost."""
    new.press("Trace")
    return new.read("The rate falls|Lost between|Largest fall|never falls|Not one of")


@task
def fork(new: Newcomer) -> str:
    """Put another token into an answer, and count how many of 8 samples from there come out right."""
    new.press("Trace")
    new.press("Decode both answers")
    new.decoded()
    new.click(new.page.locator(".tv-token").filter(has_text="makes"))
    new.click(new.page.locator(".tv-panel .near tbody tr").nth(1))
    new.click(new.page.get_by_role("dialog").get_by_role("button", name="Reroll 8 times"))
    return new.read("continuations sampled from")


@task
def figure(new: Newcomer) -> str:
    """Save a figure for a paper."""
    new.press("Causal")
    return new.saved("SVG")


@task
def near_another(new: Newcomer) -> str:
    """Find the actions that are nearest to one."""
    new.press("Basis")
    return new.read("Nearest by cosine of keys")


@task
def exclude_and_export(new: Newcomer) -> str:
    """Leave an action out that is only length, and export the rest."""
    new.press("Curate")
    new.press("exclude")
    new.write("Why", "only length")
    new.press("Exclude 1")
    new.press("Export")
    return new.read("actions are exported")


@task
def from_a_colleague(new: Newcomer) -> str:
    """Open what a colleague sent as a folder."""
    new.press("Saved")
    file = new.page.expect_download(timeout=LONG)
    with file as download:
        new.page.get_by_role("button", name="Share as a folder (zip)", exact=True).first.click()
    place = Path(tempfile.mkdtemp()) / "sent.zip"
    download.value.save_as(place)
    new.click(new.page.get_by_text("Add saved work that a colleague shared"))
    new.page.locator('input[type="file"]').first.set_input_files(place)
    new.clicks += 1
    settle(new.page)
    new.press("Add it")
    return new.read("its digests are right")


def main() -> None:
    """Do all tasks, or those whose numbers are given, on one server, each in a fresh tab."""
    wanted = [int(word) for word in sys.argv[1:]] or list(range(1, len(TASKS) + 1))
    shots = os.environ.get("STIR_SHOTS")
    with tempfile.TemporaryDirectory() as folder, served(Path(folder) / "runs", Path(folder) / "log") as url, browser() as chrome:
        for number in wanted:
            done = TASKS[number - 1]
            context = chrome.new_context(viewport={"width": 1440, "height": 1300}, accept_downloads=True)
            new = Newcomer(context.new_page(), url)
            begun = time.monotonic()
            try:
                answer = done(new)
            except Error as error:
                answer = f"did not get there: {str(error).splitlines()[0]}"
            seconds = time.monotonic() - begun
            print(f"{number} | {done.__doc__} | {new.clicks} | {new.typed} | {seconds:.0f} | {answer}", flush=True)
            if shots:
                new.page.screenshot(path=f"{shots}/task{number}.png")
            context.close()


if __name__ == "__main__":
    main()
