"""What a large harvest costs: ``python -m benchmarks.scale [--quick] [--json]``.

Unit costs that do not depend on the model are measured on the embedded run: bytes on disk, and how fast one process grades and appends,
which is what a driver does however many machines sample. The rest is arithmetic over named assumptions; nothing of it was run.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import machine, measured
from stir_core.records import Rollout
from stir_core.store.jsonl import append_records, read_records
from stir_core.store.runs import Run
from stir_core.tasks import Grader
from stir_core.tasks.thinking import graded_part

GB = 1e9


class Harvest(NamedTuple):
    """The worked case, and what is assumed of it. The model is Qwen2.5-7B's size."""

    problems: int = 1_000_000
    k: int = 8
    prompt: int = 150
    """Tokens of a prompt."""
    answer: int = 500
    """Tokens of an answer."""
    parameters: float = 7.6e9
    d_model: int = 3584
    layers: int = 28
    points: int = 8
    """Control points of an answer."""
    cache_bytes: int = 57_344
    """Keys and values of a token in bfloat16."""
    sampled_per_second: float = 10_000.0
    """Tokens of one GPU under an inference engine with a full batch: assumed, not measured."""
    read_flops: float = 4e14
    """Of one GPU in a pass over given tokens in bfloat16: assumed, 40 % of an H100's peak."""


class UnitCosts(NamedTuple):
    """What was measured here."""

    bytes_per_token: float
    """Of ``rollouts.jsonl``, for each token of an answer, everything included."""
    graded_per_second: float
    appended_per_second: float


def unit_costs(repeats: int) -> UnitCosts:
    """Measured on the rollouts of the embedded run, each graded and appended anew."""
    run = Run.open("smollm2")
    rollouts, problems = run.rollouts(), {problem.id: problem for problem in run.problems()}
    size = (run.folder("rollouts") / "rollouts.jsonl").stat().st_size
    with Grader() as grader:
        began = time.perf_counter()
        for rollout in rollouts * repeats:
            grader.judge(problems[rollout.problem_id], graded_part(rollout.text, rollout.thinking))
        graded = len(rollouts) * repeats / (time.perf_counter() - began)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rollouts.jsonl"
        began = time.perf_counter()
        for rollout in rollouts * repeats:
            append_records(file, [rollout])
        appended = len(rollouts) * repeats / (time.perf_counter() - began)
        assert len(read_records(file, Rollout)) == len(rollouts) * repeats
    return UnitCosts(size / sum(rollout.n_tokens for rollout in rollouts), graded, appended)


def worked(case: Harvest, unit: UnitCosts) -> dict[str, float]:
    """The case's totals by name, in the unit that the name ends in."""
    rollouts = case.problems * case.k
    tokens, read = rollouts * case.answer, rollouts * (case.prompt + case.answer)
    states = rollouts * case.points * case.d_model * 4
    return {
        "rollouts": rollouts,
        "answer tokens": tokens,
        "sampling, GPU hours": tokens / case.sampled_per_second / 3600,
        "reading states, GPU hours": 2 * case.parameters * read / case.read_flops / 3600,
        "rollouts on disk, GB": tokens * unit.bytes_per_token / GB,
        "states of one layer on disk, GB": states / GB,
        "states of all layers on disk, GB": states * case.layers / GB,
        "grading by one process, hours": rollouts / unit.graded_per_second / 3600,
        "appending by one process, hours": rollouts / unit.appended_per_second / 3600,
        "weights in bfloat16, GB": 2 * case.parameters / GB,
        "keys and values of 256 answers, GB": 256 * (case.prompt + case.answer) * case.cache_bytes / GB,
    }


def elapsed(case: Harvest, total: dict[str, float], gpus: int) -> dict[str, float]:
    """Hours and GB per second on so many GPUs with one driver; the driver's work goes on beside theirs."""
    hours = (total["sampling, GPU hours"] + total["reading states, GPU hours"]) / gpus
    driver = total["grading by one process, hours"] + total["appending by one process, hours"]
    return {
        "GPUs, hours": hours,
        "with one driver, hours": max(hours, driver),
        "states to the driver, MB/s": total["states of one layer on disk, GB"] * 1000 / (max(hours, driver) * 3600),
    }


def measure(*, quick: bool) -> dict[str, Any]:
    """Measure the unit costs and compute the case."""
    unit, case = unit_costs(1 if quick else 5), Harvest()
    total = worked(case, unit)
    figures: dict[str, Any] = {f"scale.{name}": value for name, value in unit._asdict().items()}
    figures |= {f"scale.case.{name.replace(', ', '_').replace(' ', '_')}": value for name, value in total.items()}
    cost = {f"{gpus} GPUs": elapsed(case, total, gpus) for gpus in (1, 8, 100, 1000)}
    return {"machine": machine(), "figures": figures, "cost_model": cost, "equal": all(value > 0 for value in unit)}


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    return measured("scale", __doc__, measure, argv, model=False)


if __name__ == "__main__":
    sys.exit(main())
