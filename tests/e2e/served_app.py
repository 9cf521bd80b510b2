"""The workbench in its own process and a real browser, for the browser tests and the screenshots.

Ends only the processes it started. Callers check the content.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
QUIET = 600
"""Milliseconds without a running script after which a page has settled; a click starts its script within this time."""
PATIENCE = 20_000
"""Milliseconds before an expectation fails; large, because a busy machine is slow."""
expect.set_options(timeout=PATIENCE)


def chromium() -> str | None:
    """Path of the browser: ``STIR_CHROMIUM``, else the first one on the path."""
    named = os.environ.get("STIR_CHROMIUM")
    return named or next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@contextmanager
def served(
    runs: Path, log: Path, *, entry: Path = ROOT / "workbench" / "app.py", seconds: float = 90, password: str | None = None
) -> Iterator[str]:
    """Serve the workbench on a free port, from a folder that is not the repository, shared if there is a password; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "streamlit", "run", str(entry), "--server.port", str(port), "--server.address", "127.0.0.1"]
    if password is not None:
        command = [sys.executable, "-m", "stir_core", "workbench", "--port", str(port), "--share", "--"]
    command += ["--server.headless", "true", "--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none"]
    environment = os.environ | {"STIR_RUNS": str(runs), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=log.parent, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT)
        try:
            assert process.stdin is not None
            process.stdin.write(f"{password or ''}\n".encode())
            process.stdin.close()
            _wait(url, process, log, seconds)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended by itself: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as reply:
                if reply.read() == b"ok":
                    return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"the server did not answer within {seconds} s: {log.read_text()[-2000:]}")


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless chromium."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield launched
        finally:
            launched.close()


def settle(page: Page, *, seconds: float = 120) -> None:
    """Wait until no script ran and nothing was drawn for ``QUIET`` milliseconds."""
    page.wait_for_selector('[data-testid="stApp"]', timeout=seconds * 1000)
    page.wait_for_selector("h1", timeout=seconds * 1000)
    page.evaluate("() => { window.quietSince = null }")
    page.wait_for_function(
        """still => {
            const quiet = document.querySelector('[data-testid="stApp"]')?.getAttribute('data-test-script-state') === 'notRunning'
                && !document.querySelector('[data-testid="stSkeleton"]');
            window.quietSince = quiet ? window.quietSince ?? performance.now() : null;
            return quiet && performance.now() - window.quietSince > still;
        }""",
        arg=QUIET,
        polling=50,
        timeout=seconds * 1000,
    )


class Watched:
    """A page whose console and requests are recorded from the start."""

    def __init__(self, page: Page, url: str):
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.strangers.append(request.url) if self._strange(request.url) else None)

    def _hear(self, message: ConsoleMessage) -> None:
        where = message.location.get("url", "")
        looking_for_the_server = (
            "/_stcore/" in where and "404" in message.text
        )  # Streamlit tries /page/_stcore/health before /_stcore/health
        if message.type == "error" and not looking_for_the_server:
            self.complaints.append(f"{message.text} ({where})")

    def _strange(self, address: str) -> bool:
        return not address.startswith((self.url, self.url.replace("http", "ws"), "data:", "blob:"))

    def check(self) -> None:
        """Assert no error on the page, none in the console, and no request to another host."""
        assert self.page.locator('[data-testid="stException"]').count() == 0, self.page.locator('[data-testid="stException"]').inner_text()
        errors = self.page.locator('[data-testid="stAlertContentError"]')
        assert errors.count() == 0, errors.first.inner_text()
        assert self.complaints == []
        assert self.strangers == []
