"""The time of a page switch on a warm server: ``python -m benchmarks.pages [--rounds N] [--write benchmarks/RESULTS.md]``.

Seconds from the click in the navigation until the script has run and nothing is being drawn, in a headless browser, on the embedded
run and on a synthetic one of 5,000 entries. Needs playwright and a chromium (STIR_CHROMIUM).
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import machine, parser, table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "workbench")]
DONE = """() => document.querySelector('[data-testid="stApp"]').getAttribute('data-test-script-state') === 'notRunning'
  && !document.querySelector('[data-testid="stSkeleton"]')"""
BEGIN, END = "<!-- pages: written by python -m benchmarks.pages --write -->", "<!-- end of pages -->"


def measure(rounds: int, only: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Median, least and most seconds of every page on both runs, without the first visit."""
    from big_run import make_big_run  # pyright: ignore[reportMissingImports]
    from served_app import browser, served, settle  # pyright: ignore[reportMissingImports]

    names = {path.stem: path.stem for path in sorted((ROOT / "pages").glob("*.py")) if path.stem != "home"}
    titles = {stem: "What-if" if stem == "what_if" else stem.capitalize() for stem in names if not only or stem in only}
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_big_run(Path(folder) / "runs")
        with served(Path(folder) / "runs", Path(folder) / "server.log") as url, browser() as chrome:
            for run in ("smollm2", "big"):
                page = chrome.new_page(viewport={"width": 1440, "height": 1000})
                page.goto(f"{url}/?run={run}")
                settle(page)
                for turn in range(rounds + 1):
                    for stem, title in titles.items():
                        started = time.perf_counter()
                        page.get_by_role("link", name=title, exact=True).click()
                        page.wait_for_function("path => location.pathname === path", arg=f"/{stem}")
                        page.locator("h3", has_text=title).wait_for(timeout=60_000)
                        page.wait_for_function(DONE, timeout=60_000)
                        if turn:
                            seconds.setdefault((stem, run), []).append(time.perf_counter() - started)
                        page.wait_for_timeout(400)
                page.close()
    return {
        f"{title}, {run}": {"median": statistics.median(found), "min": min(found), "max": max(found)}
        for stem, title in titles.items()
        for run in ("smollm2", "big")
        if (found := seconds[stem, run])
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and put the table between its marks."""
    options = parser("pages", __doc__, model=False)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", nargs="+", metavar="STEM", help="only these pages, by their files' names")
    options.add_argument("--write", type=Path, help="file with marks to write the table into")
    arguments = options.parse_args(argv)
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    text = f"{facts}; {arguments.rounds} rounds, seconds\n\n{table(measure(arguments.rounds, arguments.only))}"
    print(text)
    if arguments.write:
        whole = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(whole.split(BEGIN)[0] + f"{BEGIN}\n\n{text}\n\n{END}" + whole.split(END)[1], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
