"""Shared code of the benchmarks: interleaved timing, paired ratios, the machine, and tables.

Machines are shared and their speed drifts, so every figure is a ratio against a peer that was measured in turn, A B A B, in the same run.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
from tabulate import tabulate

from stir_core.models.threads import settle_threads
from stir_core.records import Entry

Times = dict[str, list[float]]


def interleaved(ways: dict[str, Callable[[], Any]], rounds: int, *, warmup: int = 1) -> Times:
    """Seconds of every implementation, by name, measured in turn ``rounds`` times."""
    times: Times = {name: [] for name in ways}
    for i in range(warmup + rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if i >= warmup:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Times, a: str, b: str) -> dict[str, float]:
    """``a / b`` pair by pair: median, smallest and largest."""
    ratios = [one / two for one, two in zip(times[a], times[b], strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def read_bandwidth() -> float:
    """Bytes per second that this process reads from memory now, with its own number of threads."""
    block = torch.ones(32 << 20, dtype=torch.float32)
    found = []
    for _ in range(5):
        start = time.perf_counter()
        block.max()
        found.append(block.numel() * 4 / (time.perf_counter() - start))
    return statistics.median(found)


def machine() -> dict[str, Any]:
    """The machine and the software versions of the measurement."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else model
    return {
        "device": device,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "commit": (git.stdout.strip() or "unknown") + (" with changes" if dirty else ""),
        "date": time.strftime("%Y-%m-%d"),
    }


def corrective(name: str, m: int, layer: int, quality: float, row: int) -> Entry:
    """A corrective library entry with default values for all other fields; its key and action are row ``row``."""
    return Entry(
        id=name,
        kind="corrective",
        pair=row,
        problem_id="p",
        m=m,
        layer=layer,
        quality=quality,
        reward_pos=quality,
        reward_neg=0.0,
        positives=(0,),
        negatives=(1,),
        key_row=row,
        action_row=row,
        key_norm=1.0,
        action_norm=1.0,
        reachable=True,
    )


def parser(module: str, about: str | None, *, model: bool = True) -> argparse.ArgumentParser:
    """A parser with the common options. Also settles the process's thread count, as ``stir`` does."""
    settle_threads()
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=about)
    if model:
        made.add_argument("--model", default="smollm2", help="catalogue name, folder, GGUF file or hub name")
        made.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    made.add_argument("--quick", action="store_true", help="small sizes: shapes and equality rather than figures")
    made.add_argument("--json", action="store_true")
    return made


def measured(module: str, about: str | None, measure: Callable[..., dict[str, Any]], argv: list[str] | None, *, model: bool = True) -> int:
    """Parse, measure and print; exit code 1 if an equality check fails."""
    arguments = parser(module, about, model=model).parse_args(argv)
    which = (arguments.model, arguments.dtype) if model else ()
    report = measure(*which, quick=arguments.quick)
    show(report, arguments.json)
    return 0 if report["equal"] else 1


def checked(equal: bool, **compared: int) -> dict[str, Any]:
    """A report's check: what was compared, by name, and whether it is equal. A comparison of nothing is no equality."""
    return {"compared": compared, "equal": equal and bool(compared) and all(n > 0 for n in compared.values())}


def show(report: dict[str, Any], as_json: bool) -> None:
    """Print a report: JSON, or its figures as a table."""
    if as_json:
        print(json.dumps(flat(report), indent=2))
        return
    print("  ".join(f"{key} {value}" for key, value in report["machine"].items()))
    print(table(report["figures"]))
    for name, rows in report.get("cost_model", {}).items():
        print(f"\n{name}")
        for at, value in rows.items():
            print(f"  {at:>12}  {plain(value)}")


def flat(report: dict[str, Any]) -> dict[str, Any]:
    """A report for programs: every figure is a plain value under its name, and spreads are separate."""
    figures = report["figures"]
    values = {name: value["median"] if isinstance(value, dict) else value for name, value in figures.items()}
    spread = {name: [value["min"], value["max"]] for name, value in figures.items() if isinstance(value, dict)}
    return {**values, "spread": spread, **{key: value for key, value in report.items() if key != "figures"}}


def table(figures: dict[str, Any]) -> str:
    """Figures as a Markdown table: the median, with its spread if there is one."""
    rows = [
        (f"`{name}`", plain(value["median"]), f"{plain(value['min'])} to {plain(value['max'])}")
        if isinstance(value, dict)
        else (f"`{name}`", plain(value), "")
        for name, value in figures.items()
    ]
    return tabulate(rows, ("figure", "value", "spread"), "github", disable_numparse=True)


def plain(value: Any) -> str:
    """A number with three significant digits; other values unchanged."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
