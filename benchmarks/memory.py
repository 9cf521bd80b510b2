"""Memory of long work: ``python -m benchmarks.memory [--rollouts N | --minutes M] [--json]``.

Resident memory of the process while it harvests ``N`` short rollouts with a tiny random model, or of a served workbench while a headless
browser uses it for ``M`` minutes: page switches, both answers of Trace, what-ifs, and tabs closed in mid-stream (needs playwright and a
chromium). Memory is flat if its largest value in the second half of the work is at most 5 % above that in the first half.
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import psutil

from benchmarks.harness import machine, parser, show

ROOT = Path(__file__).resolve().parents[1]
FLAT = 1.05
EVERY = 100
"""Rollouts between two samples."""
RUN = "two_habits"
"""The embedded run that is used in the browser; its model is small."""
Samples = list[tuple[float, int]]
"""(work done so far, resident bytes of the process), in order."""


def growth(samples: Samples) -> dict[str, Any]:
    """Figures of the samples: the largest values of both halves of the work in MB, and the second over the first."""
    middle = (samples[0][0] + samples[-1][0]) / 2
    first = max(held for done, held in samples if done <= middle)
    second = max(held for done, held in samples if done > middle)
    return {"samples": len(samples), "first_half_mb": first / 1e6, "second_half_mb": second / 1e6, "growth": second / first}


def harvest(rollouts: int) -> tuple[dict[str, Any], bool]:
    """Sample, grade and capture ``rollouts`` answers as ``stir run --until states`` does; figures, and whether memory was flat."""
    from stir_core.config import config_from
    from stir_core.models.loading import boot
    from stir_core.records import Progress
    from stir_core.stages.pipeline import run_stages
    from tests.builders import make_hf, make_tokenizer

    me, samples, peak = psutil.Process(), cast(Samples, []), 0

    def report(progress: Progress) -> None:
        nonlocal peak
        if progress.stage == "rollouts":
            if progress.done and progress.done % EVERY == 0:
                samples.append((progress.done, me.memory_info().rss))
        elif progress.stage == "states":
            peak = max(peak, me.memory_info().rss)

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder) / "tokenizer")
        model = boot("tiny/llama", make_hf("llama", len(tokenizer)), tokenizer, weights_sha256="0" * 64)
        config = config_from(
            {
                "task": {"name": "arithmetic", "n_train": rollouts // 8, "n_eval": 4},
                "rollouts": {"k": 8, "max_new_tokens": 32, "batch_rows": 64},
                "mining": {"control_points": 8, "layers": [1, 2]},
                "delimiter": "e",  # the random model ends few paragraphs
            }
        )
        started = time.monotonic()
        run = run_stages(config, Path(folder) / "run", until="states", report=report, model=model)
        figures = {
            "rollouts": len(run.rollouts()),
            "seconds": time.monotonic() - started,
            "tokens": run.manifest("rollouts").counts["tokens"],
        }
    found = growth(samples)
    figures |= found | {"states_stage_mb": peak / 1e6}
    return {f"harvest.{name}": value for name, value in figures.items()}, found["growth"] <= FLAT


def soak(minutes: float) -> tuple[dict[str, Any], bool]:
    """Use a served workbench for ``minutes``; figures, and whether the server's memory was flat."""
    sys.path[:0] = [str(ROOT / "tests" / "e2e")]
    from served_app import browser, served  # pyright: ignore[reportMissingImports]

    samples: Samples = []
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with served(Path(folder) / "runs", log) as url, browser() as chrome:
            server = max(psutil.Process().children(), key=lambda child: "streamlit" in " ".join(child.cmdline()))
            began = None
            for did in _use(chrome, url):
                counts[did] = counts.get(did, 0) + 1
                if did != "rounds":
                    continue
                began = began or time.monotonic()  # the first round loads the model and every page's modules
                minute = (time.monotonic() - began) / 60
                samples.append((minute, server.memory_info().rss))
                print(f"{minute:6.1f} min  {samples[-1][1] / 1e6:.0f} MB", file=sys.stderr, flush=True)
                if minute >= minutes:
                    break
        clean = "Traceback" not in log.read_text()
    found = growth(samples)
    figures = counts | {"minutes": samples[-1][0]} | found | {"log_without_traceback": clean}
    return {f"soak.{name}": value for name, value in figures.items()}, clean and found["growth"] <= FLAT


def _use(chrome: Any, url: str) -> Iterator[str]:
    """Use the workbench, a new tab for each round; yields the name of each thing that was done."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
    from served_app import settle  # pyright: ignore[reportMissingImports]

    from stir_core.store.runs import Run

    titles = ["What-if" if path.stem == "what_if" else path.stem.capitalize() for path in sorted((ROOT / "pages").glob("*.py"))]
    problems = [trace.id for trace in Run.open(RUN).traces("steered") if any(step.decision.chosen for step in trace.steps)]
    for problem in itertools.cycle(problems):
        context = chrome.new_context(viewport={"width": 1440, "height": 1200})
        page = context.new_page()
        page.set_default_timeout(300_000)
        page.goto(f"{url}/?run={RUN}")
        settle(page, seconds=300)
        for title in titles:
            if title != "Home":
                page.get_by_role("link", name=title, exact=True).click()
                page.locator("h3", has_text=title).wait_for()
                settle(page, seconds=300)
                yield "page_switches"
        page.goto(f"{url}/trace?run={RUN}&problem={quote(problem)}")
        settle(page, seconds=300)
        page.get_by_role("button", name="Decode both answers").click()
        page.get_by_role("button", name="Download as one HTML file").wait_for()
        settle(page, seconds=300)
        yield "traces"
        page.goto(f"{url}/what_if?run={RUN}&problem={quote(problem)}")
        settle(page, seconds=300)
        for way in ("Keep", "Deny"):
            page.locator(".st-key-what_if_way").get_by_text(way, exact=True).click()
            settle(page, seconds=300)
            page.locator(".st-key-what_if_branch button").click()
            page.locator(".st-key-what_if_tree").get_by_text("#1" if way == "Keep" else "#2").first.wait_for()
            settle(page, seconds=300)
            yield "what_ifs"
        page.goto(f"{url}/trace?run={RUN}&problem={quote(problem)}")
        settle(page, seconds=300)
        page.get_by_role("button", name="Decode both answers").click()
        with suppress(PlaywrightTimeoutError):
            page.get_by_role("button", name="Stop decoding").wait_for(timeout=5000)  # a short answer may end before it is seen
        streaming = page.get_by_role("button", name="Stop decoding").is_visible()
        context.close()
        yield "tabs_closed_in_mid_stream" if streaming else "tabs_closed_after_an_answer"
        yield "rounds"


def main(argv: list[str] | None = None) -> int:
    """Measure and print; exit code 1 if memory was not flat."""
    options = parser("memory", __doc__, model=False)
    options.add_argument("--rollouts", type=int, default=10_000, help="rollouts to harvest")
    options.add_argument("--minutes", type=float, help="use the served workbench this long instead")
    arguments = options.parse_args(argv)
    if arguments.minutes is None:
        figures, flat = harvest(800 if arguments.quick else arguments.rollouts)
    else:
        figures, flat = soak(arguments.minutes)
    show({"machine": machine(), "figures": figures, "flat": flat}, arguments.json)
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
