"""The time of a page switch on a warm server: ``python -m benchmarks.pages [--rounds N] [--write benchmarks/RESULTS.md]``.

Seconds from the click in the navigation until the script has run and nothing is being drawn, in a headless browser, on the embedded
run and on a synthetic one of 5,000 entries (``--entries N --width D`` for another). Beside them the processor seconds that the server
took, which do not depend on what else the machine does. Needs playwright and a chromium (STIR_CHROMIUM). ``--script`` measures without a
browser instead: processor seconds of the page's script alone, at the first visit in a new process and when it is drawn again.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.harness import machine, parser, table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "workbench")]
DONE = """() => document.querySelector('[data-testid="stApp"]').getAttribute('data-test-script-state') === 'notRunning'
  && !document.querySelector('[data-testid="stSkeleton"]')"""
BEGIN, END = "<!-- pages: written by python -m benchmarks.pages --write -->", "<!-- end of pages -->"


Figures = dict[str, dict[str, float]]


def first_paint() -> tuple[float, float, float]:
    """Seconds from the start of the server that ``make workbench`` becomes until Home's heading is seen, and until Home has settled, in a
    browser that is open already; and the processor seconds that the server took."""
    from served_app import browser, served, settle  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as folder, browser() as chrome:
        page, started = chrome.new_page(viewport={"width": 1440, "height": 1000}), time.perf_counter()
        with served(Path(folder), Path(folder) / "server.log") as url:
            server = next(each for each in psutil.Process().children() if "streamlit" in each.cmdline())
            page.goto(url)
            page.locator("h1").wait_for(timeout=120_000)
            seen = time.perf_counter() - started
            settle(page)
            return seen, time.perf_counter() - started, sum(server.cpu_times()[:2])


def measure(rounds: int, only: list[str] | None, entries: int, width: int) -> tuple[Figures, Figures, Figures]:
    """Median, least and most of every page on both runs: seconds and the server's processor seconds, and the latter of first visits."""
    from big_run import make_big_run  # pyright: ignore[reportMissingImports]
    from served_app import browser, served, settle  # pyright: ignore[reportMissingImports]

    names = {path.stem: path.stem for path in sorted((ROOT / "pages").glob("*.py")) if path.stem != "home"}
    titles = {stem: "What-if" if stem == "what_if" else stem.capitalize() for stem in names if not only or stem in only}
    seconds: dict[tuple[str, str], list[float]] = {}
    work: dict[tuple[str, str], list[float]] = {}
    first: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_big_run(Path(folder) / "runs", entries, width=width)
        with served(Path(folder) / "runs", Path(folder) / "server.log") as url, browser() as chrome:
            server = next(each for each in psutil.Process().children() if "streamlit" in each.cmdline())
            for run in ("smollm2", "big"):
                page = chrome.new_page(viewport={"width": 1440, "height": 1000})
                page.goto(f"{url}/?run={run}")
                settle(page)
                for turn in range(rounds + 1):
                    for stem, title in titles.items():
                        started, before = time.perf_counter(), sum(server.cpu_times()[:2])
                        page.get_by_role("link", name=title, exact=True).click()
                        page.wait_for_function("path => location.pathname === path", arg=f"/{stem}")
                        page.locator("h1", has_text=title).wait_for(timeout=60_000)
                        page.wait_for_function(DONE, timeout=60_000)
                        if turn:
                            seconds.setdefault((stem, run), []).append(time.perf_counter() - started)
                        page.wait_for_timeout(400)
                        (work if turn else first).setdefault((stem, run), []).append(sum(server.cpu_times()[:2]) - before)
                page.close()

    def figures(found: dict[tuple[str, str], list[float]]) -> Figures:
        return {
            f"{titles[stem]}, {run}": {"median": statistics.median(each), "min": min(each), "max": max(each)}
            for (stem, run), each in sorted(found.items())
        }

    return figures(seconds), figures(work), figures(first)


def script_seconds(only: list[str] | None, entries: int, width: int, rounds: int) -> tuple[Figures, float]:
    """Processor seconds of every page on the synthetic run, drawn again and at the first visit; and the memory held at the end, in MB."""
    from big_run import make_big_run  # pyright: ignore[reportMissingImports]
    from streamlit import config
    from streamlit.testing.v1 import AppTest

    figures: Figures = {}
    config.set_option("server.address", "127.0.0.1")  # as the config beside app.py says, which only `streamlit run` reads
    with tempfile.TemporaryDirectory() as folder:
        make_big_run(Path(folder), entries, width=width)
        os.environ["STIR_RUNS"] = folder
        app = AppTest.from_file(str(ROOT / "workbench" / "app.py"), default_timeout=600)
        app.query_params["run"] = "big"
        app.run()
        for stem in only or sorted(path.stem for path in (ROOT / "pages").glob("*.py") if path.stem != "home"):
            app.switch_page(f"../pages/{stem}.py")
            found = []
            for _ in range(rounds + 1):
                started = time.process_time()
                app.run()
                found.append(time.process_time() - started)
                if app.exception or app.error:
                    raise RuntimeError(f"{stem}: {[*app.exception, *app.error][0].value}")
            first, again = found[0], sorted(found[1:])
            figures[stem] = {"median": statistics.median(again), "min": again[0], "max": again[-1]}
            figures[f"{stem}, first visit"] = {"median": first, "min": first, "max": first}
        return figures, psutil.Process().memory_info().rss / 1e6


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and put the table between its marks."""
    options = parser("pages", __doc__, model=False)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", nargs="+", metavar="STEM", help="only these pages, by their files' names")
    options.add_argument("--entries", type=int, default=5000, help="of the synthetic run")
    options.add_argument("--script", action="store_true", help="without a browser")
    options.add_argument("--first", action="store_true", help="only the first paint after the server's start")
    options.add_argument("--width", type=int, default=576, help="of its vectors")
    options.add_argument("--write", type=Path, help="file with marks to write the table into")
    arguments = options.parse_args(argv)
    if arguments.first:
        print(
            machine(),
            *(
                f"heading {seen:.2f} s, settled {still:.2f} s, {took:.2f} processor seconds"
                for seen, still, took in (first_paint() for _ in range(arguments.rounds))
            ),
            sep="\n",
        )
        return 0
    if arguments.script:
        figures, held = script_seconds(arguments.only, arguments.entries, arguments.width, arguments.rounds)
        print(f"{machine()}; {arguments.entries:,} entries of width {arguments.width}, {held:.0f} MB\n\n{table(figures)}")
        return 0
    starts = [first_paint() for _ in range(3)]
    heading, settled, took = (statistics.median(each) for each in zip(*starts, strict=True))
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    seconds, work, first = measure(arguments.rounds, arguments.only, arguments.entries, arguments.width)
    text = f"{facts}; {arguments.rounds} rounds, seconds; synthetic run of {arguments.entries:,} entries\n\n{table(seconds)}\n\n"
    text += f"Processor seconds of the server:\n\n{table(work)}\n\nProcessor seconds of the server at the first visit:\n\n{table(first)}"
    medians = [figure["median"] for name, figure in seconds.items() if name.endswith("smollm2")]
    text += f"\n\nMedian over {len(medians)} pages of the embedded run: {statistics.median(medians):.2f} s."
    text += f"\n\nFrom the server's start (median of {len(starts)}): Home's heading {heading:.2f} s, settled {settled:.2f} s"
    text += f", {took:.2f} processor seconds."
    print(text)
    if arguments.write:
        whole = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(whole.split(BEGIN)[0] + f"{BEGIN}\n\n{text}\n\n{END}" + whole.split(END)[1], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
