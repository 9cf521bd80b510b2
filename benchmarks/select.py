"""Greedy selection against a straightforward loop, and at 100,000 candidates: ``python -m benchmarks.select [--quick] [--json]``.

The loop version computes every candidate's gain by itself, with a triangular solve, as the published code does.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from benchmarks.harness import checked, machine, measured
from stir_core.basis.selection import greedy_map, unit_rows

WIDTH = 576
DIVERSITY, EPSILON = 0.5, 1e-4


def candidates(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Seeded keys with a common direction, like residual states, and qualities."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, WIDTH)) + 1.2).astype(np.float32), rng.uniform(0.5, 1.0, n)


def loops(units: np.ndarray, quality: np.ndarray, budget: int) -> list[int]:
    """The objective, greedily, one candidate at a time."""
    picks: list[int] = []
    lower = np.empty((0, 0))
    while len(picks) < budget:
        best, best_gain, best_row = -1, -np.inf, np.empty(0)
        for i in range(len(units)):
            if i in picks:
                continue
            row = np.empty(0)
            if picks:
                row = solve_triangular(lower, units[picks] @ units[i], lower=True, check_finite=False)
            gain = np.log1p(quality[i]) + DIVERSITY * np.log(max(1 + EPSILON - row @ row, 1e-12))
            if gain > best_gain:
                best, best_gain, best_row = i, gain, row
        size = len(picks)
        grown = np.zeros((size + 1, size + 1))
        grown[:size, :size] = lower
        grown[size, :size] = best_row
        grown[size, size] = np.sqrt(max(1 + EPSILON - best_row @ best_row, 1e-12))
        lower = grown
        picks.append(best)
    return picks


def ours(keys: np.ndarray, quality: np.ndarray, budget: int) -> list[int]:
    """The product's selection."""
    return [pick.index for pick in greedy_map(unit_rows(keys), quality, budget, diversity=DIVERSITY, epsilon=EPSILON)]


def large(n: int, budget: int) -> tuple[float, float]:
    """Seconds and peak memory in MB of a selection in a process of its own, including its input."""
    code = (
        f"import time; from benchmarks.select import *; keys, quality = candidates({n}); start = time.perf_counter(); "
        f"ours(keys, quality, {budget}); print(time.perf_counter() - start, peak_mb())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return float(out[0]), float(out[1])


def peak_mb() -> float:
    """Peak memory of this process; not by getrusage, which includes the parent's memory at the start."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure(*, quick: bool) -> dict[str, Any]:
    """Measure everything and return the figures by name."""
    n, budget = (256, 24) if quick else (4096, 256)
    keys, quality = candidates(n)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        picks = ours(keys, quality, budget)
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    plain = loops(unit_rows(keys), quality, budget)
    slow = time.perf_counter() - start
    figures: dict[str, Any] = {
        f"select.n{n}_b{budget}.vs_loops": slow / sorted(times)[2],
        f"select.n{n}_b{budget}.seconds": sorted(times)[2],
        "select.same_order": picks == plain,
    }
    n, budget = (5000, 32) if quick else (100_000, 256)
    figures[f"select.n{n}_b{budget}.seconds"], figures[f"select.n{n}_b{budget}.peak_mb"] = large(n, budget)
    cost = {}
    if not quick:
        for size in (1000, 4000, 16000):
            cost[f"n = {size}, B = 256"] = large(size, 256)[0]
    return {
        "machine": machine(),
        "figures": figures,
        "cost_model": {"seconds by library size": cost},
        **checked(picks == plain, picks=len(plain)),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print; exit code 1 when the order differs from the loop's."""
    return measured("select", __doc__, measure, argv, model=False)


if __name__ == "__main__":
    sys.exit(main())
