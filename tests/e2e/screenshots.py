"""Pictures of the pages for the README: `python tests/e2e/screenshots.py OUTDIR [--run NAME] [--dark] [--full] [--entry APP]`.

Serves the workbench on the embedded runs (or the runs of STIR_RUNS) and opens it in a headless browser.
"""

import argparse
import os
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page
from served_app import ROOT, browser, served, settle

PAGES = {path.stem: path.stem for path in sorted((ROOT / "pages").glob("*.py"))} | {"home": ""}


def shoot(page: Page, url: str, name: str, chosen: dict[str, str], out: Path, full: bool) -> None:
    """Open one page (on Trace, decode an answer first) and write its picture."""
    page.goto(f"{url}/{PAGES[name]}?{urlencode(chosen)}")
    settle(page)
    if name == "trace":
        page.get_by_role("button", name="Decode both answers").click()
        page.get_by_role("button", name="Download both traces (JSON)").wait_for(timeout=300_000)
        settle(page)
    if full:
        height = page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": 1440, "height": max(900, int(height) + 20)})
        page.wait_for_timeout(1200)
    page.screenshot(path=str(out / f"{name}.png"))


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--run", help="which run to show; default: the first")
    parser.add_argument("--problem", help="which held-out problem Gates and Trace show; default: the first")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--full", action="store_true", help="the whole page instead of the first screen")
    parser.add_argument("--entry", type=Path, default=ROOT / "workbench" / "app.py")
    parser.add_argument("--pages", nargs="*", default=list(PAGES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = {key: value for key, value in (("run", options.run), ("problem", options.problem)) if value}
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(os.environ.get("STIR_RUNS", folder))
        with served(runs, Path(folder) / "server.log", entry=options.entry) as url, browser() as chrome:
            for name in options.pages:
                scheme = "dark" if options.dark else "light"
                context = chrome.new_context(viewport={"width": 1440, "height": 900}, color_scheme=scheme, device_scale_factor=1)
                shoot(context.new_page(), url, name, chosen, options.out, options.full)
                context.close()
                print(options.out / f"{name}.png")


if __name__ == "__main__":
    main()
