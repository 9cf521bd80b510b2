"""Streaming clients by the dozen, half of which leave: ``python -m benchmarks.load [BUNDLE] [--quick]``.

64 clients ask ``stir serve``, a process of its own, started by its command; without a bundle it serves the embedded run ``two_habits`` on
its organism. Each prompt is first asked for on the idle server, steered and with steering off. Then the clients ask at random, for half a
minute (the buffers grow to the size that this load needs) and for two minutes; every second one leaves in mid-stream. Checked:

The server is a process of its own, started by its command; without a bundle it serves the embedded run ``two_habits`` on its organism. Each
prompt is first asked for on the idle server, steered and with steering off. Then the clients ask at random, for half a minute (the buffers
grow to the size that this load needs) and for two minutes. Checked:

- every answer that was read to its end equals the one on the idle server;
- the server's memory after the two minutes, when it is idle again, is within 5 % of that before them;
- afterwards no answer is live or waits, no connection is open, and the decode loop sleeps: a row left over in its batch would keep it busy.

Writes the section *Load* of docs/reliability.md; exit code 1 if a check fails.
"""

import argparse
import random
import re
import sys
import tempfile
import threading
import time
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
from tabulate import tabulate

from benchmarks.harness import machine
from benchmarks.serve import Asker, served, single, together
from stir_core.deploy.bundle.reading import read_bundle
from stir_core.deploy.export import export
from stir_core.store.runs import Run
from stir_core.tasks import load_problems, render

CLIENTS, PROMPTS, BUDGET = 64, 12, 96
WARM, SECONDS, QUICK = 30.0, 120.0, 3.0
FLAT, ASLEEP = 0.05, 0.1
"""Most that memory may change, as a share, and most processor time that an idle server may use, in seconds per second."""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
_SECTION = re.compile(r"(?<=<!-- load: written by python -m benchmarks.load -->\n).*?(?=<!-- /load -->)", re.DOTALL)


class Load(NamedTuple):
    """What was seen."""

    seconds: float
    read: int
    """Answers that were read to their end."""
    left: int
    """Answers whose client left in mid-stream."""
    wrong: int
    errors: list[str]
    before: int
    """Memory in bytes, as the next ones."""
    most: int
    after: int
    rows: int
    """Answers that were live or waiting afterwards."""
    connections: int
    busy: float
    """Processor time per second afterwards."""

    @property
    def failures(self) -> list[str]:
        """The checks that failed, in words."""
        checks = {
            f"{self.wrong} answers are not what their prompt gets alone": self.wrong == 0,
            f"{len(self.errors)} errors, the first one {self.errors[:1]}": not self.errors,
            f"memory went from {self.before} to {self.after} bytes": abs(self.after - self.before) <= FLAT * self.before,
            f"{self.rows} rows and {self.connections} connections are left over": self.rows == self.connections == 0,
            f"the decode loop is busy ({self.busy:.2f})": self.busy <= ASLEEP,
            "no answer was read, or nobody left": self.read > 0 and self.left > 0,
        }
        return [line for line, passed in checks.items() if not passed]


def crowd(asker: Asker, messages: list[str], seconds: float) -> int:
    """Let the clients ask for some seconds, and return how many answers were left in mid-stream."""
    end, lock, left = time.perf_counter() + seconds, threading.Lock(), [0]

    def one(number: int) -> None:
        draws = random.Random(number)
        with httpx.Client(timeout=600, trust_env=False) as client:
            while time.perf_counter() < end:
                message, off = draws.choice(messages), draws.random() < 0.25
                stays = repeat(True) if number % 2 else chain(repeat(True, draws.randrange(BUDGET // 4)), repeat(False))
                answer = asker.ask(client, message, off, partial(next, stays))
                with lock:
                    if answer is None:
                        left[0] += 1
                    else:
                        asker.keep(answer, message, off)

    together(one, CLIENTS)
    return left[0]


def measure(bundle: Path, model: str | None, *, quick: bool) -> Load:
    """Run the load and look at the server before, during and after it."""
    task = read_bundle(bundle).manifest.stage3.task
    messages = [render(problem, task.template) for problem in load_problems(task.name, "eval", n=PROMPTS)]
    with served(str(bundle), model) as (url, server):
        asker, held, done = Asker(url, BUDGET), [], threading.Event()
        single(asker, messages)
        crowd(asker, messages, QUICK if quick else WARM)
        _idle(url)
        before, counted, began = server.memory_info().rss, len(asker.answers), time.perf_counter()

        def look() -> None:
            while not done.wait(1):
                held.append(server.memory_info().rss)

        looking = threading.Thread(target=look)
        looking.start()
        left = crowd(asker, messages, QUICK if quick else SECONDS)
        done.set()
        looking.join()
        seconds = time.perf_counter() - began
        rows = _idle(url)
        return Load(
            seconds=seconds,
            read=len(asker.answers) - counted,
            left=left,
            wrong=len(asker.wrong),
            errors=asker.errors,
            before=before,
            most=max(held, default=before),
            after=server.memory_info().rss,
            rows=rows,
            connections=sum(each.status == psutil.CONN_ESTABLISHED for each in server.net_connections("tcp")),
            busy=_busy(server),
        )


def _idle(url: str, patience: float = 30.0) -> int:
    """Wait until no answer is live or waiting; returns how many still are."""
    end = time.perf_counter() + patience
    while True:
        facts = httpx.get(url.removesuffix("/v1") + "/health", trust_env=False).json()
        if facts["live"] + facts["waiting"] == 0 or time.perf_counter() > end:
            return facts["live"] + facts["waiting"]
        time.sleep(0.2)


def _busy(server: psutil.Process, seconds: float = 5.0) -> float:
    spent = sum(server.cpu_times()[:2])
    time.sleep(seconds)
    return (sum(server.cpu_times()[:2]) - spent) / seconds


def report(load: Load, bundle: Path) -> str:
    """The section of the page."""
    facts, manifest, mib = machine(), read_bundle(bundle).manifest, 2**20
    rows = {
        "answers that were read to their end": load.read,
        "of them different from the same prompt's on the idle server": load.wrong,
        "errors": len(load.errors),
        "answers whose client left in mid-stream": load.left,
        "memory of the idle server before": f"{load.before / mib:.1f} MiB",
        "at most during it": f"{load.most / mib:.1f} MiB",
        "of the idle server after it": f"{load.after / mib:.1f} MiB ({load.after / load.before - 1:+.1%})",
        "rows live or waiting afterwards": load.rows,
        "connections open afterwards": load.connections,
        "processor time of the idle server afterwards": f"{load.busy:.1%}",
    }
    where = f"{manifest.model.name}, {facts['device']}, {facts['cores']} cores, {facts['date']}, commit {facts['commit']}"
    return f"\n{tabulate(rows.items(), ('', f'{load.seconds:.0f} s'), 'github', disable_numparse=True)}\n\n{where}.\n\n"


def main() -> int:
    """Measure, print and write; exit code 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, help="bundle folder (default: the embedded run two_habits)")
    parser.add_argument("--model", help="another place where the bundle's own model lies")
    parser.add_argument("--quick", action="store_true", help="a few seconds, nothing written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle or Path(folder) / "bundle"
        if arguments.bundle is None:
            export(Run.open("two_habits"), bundle)
        load = measure(bundle, arguments.model, quick=arguments.quick)
        text = report(load, bundle)
    print(text)
    for line in load.failures:
        print(f"FAILED: {line}")
    if not arguments.quick and not load.failures:
        PAGE.write_text(_SECTION.sub(lambda _: text, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if load.failures else 0


if __name__ == "__main__":
    sys.exit(main())
