"""The cost of steering relative to plain decoding and to the naive scheme: ``python -m benchmarks.steer [--dtype ...] [--json]``.

Every step is 30 tokens long (so that vanilla and steered answers are equally long), four candidates are previewed for four tokens, and at
every control point an action is committed: the most expensive case. Time counts from the end of the first step, which is never steered.
The naive scheme (``benchmarks.naive``) runs in the same rounds; decisions, tokens and log-probabilities must be equal to its.
"""

import sys
import time
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks import naive
from benchmarks.harness import corrective, machine, measured
from stir_core.config import DecodeConfig, GateConfig, with_changes
from stir_core.intervene.controller import run_all, steer
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.memory import Memory
from stir_core.models import loading
from stir_core.models.catalogue import prepare, resolve
from stir_core.models.loading import DTYPES, LoadedModel, load_model
from stir_core.models.passes import Feed, forward
from stir_core.records import Entry, TokenEvent, Trace, TraceEvent
from stir_core.tasks.segment import StepScanner

STEP = 30
FILLER = "A farmer keeps hens, geese and ducks; every morning he counts the eggs and writes the numbers on a slate by the door. "


class EveryThirty(StepScanner):
    """A step scanner that ends a step at every 30th token."""

    count = 0

    def push(self, token_id: int) -> bool:
        """Take a token; True at the 30th."""
        self.count += 1
        return self.count % STEP == 0


def prompts(model: LoadedModel, rows: int, length: int) -> list[list[int]]:
    """Different prompts of about the same length."""
    return [
        model.chat_ids(f"Story {i}. " + FILLER * max(1, length // 25) + f"How many birds could there be in year {i}?") for i in range(rows)
    ]


def library(model: LoadedModel, ids: list[list[int]], layer: int, control_points: int, settings: Settings) -> Memory:
    """Keys near the states of the vanilla answers, with small random actions: always retrieved, always committed."""
    rng = np.random.default_rng(0)
    entries: list[Entry] = []
    keys: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    for sequence in ids[:1]:
        (trace,) = run_all(model, [Job("v", sequence, GateConfig())], settings)
        for m in range(1, control_points):
            prefix = [*sequence, *trace.token_ids[: STEP * m]]
            feed = Feed(model.new_store().open(), prefix, capture=(len(prefix) - 1,))
            state = forward(model, [feed], (layer,)).states[0][layer][0].float().numpy()
            for i in range(8):
                keys.append(state + 0.3 * np.linalg.norm(state) / len(state) ** 0.5 * rng.standard_normal(len(state)))
                noise = rng.standard_normal(len(state))
                actions.append(0.1 * np.linalg.norm(state) * noise / np.linalg.norm(noise))
                entries.append(corrective(f"m{m}i{i}", m, layer, 1.0 - 0.02 * i, len(entries)))
    return Memory(tuple(entries), np.array(keys, np.float32), np.array(actions, np.float32))


def after_first_step(model: LoadedModel, jobs: list[Job], settings: Settings) -> tuple[float, list[Trace]]:
    """Seconds from the last answer's first step to the end, and the traces."""
    traces: dict[int, Trace] = {}
    start = time.perf_counter()
    for event in steer(model, jobs, settings):
        if isinstance(event, TokenEvent) and event.step == 1:
            start = time.perf_counter()
        elif isinstance(event, TraceEvent):
            traces[event.row] = event.trace
    return time.perf_counter() - start, [traces[row] for row in range(len(jobs))]


def measure(name: str, dtype: str, *, quick: bool, sweeps: bool = True) -> dict[str, Any]:
    """Measure everything and return the figures by name."""
    model = replace(load_model(name, dtype=dtype), stop_ids=frozenset())
    hf = AutoModelForCausalLM.from_pretrained(prepare(resolve(name)), dtype=DTYPES[dtype], attn_implementation="sdpa").eval()
    layer = round(0.6 * (model.n_layers - 1))
    steps, rounds, rows, length = (2, 1, 2, 40) if quick else (3, 3, 8, 200)
    settings = Settings(DecodeConfig(max_new_tokens=STEP * steps), control_points=steps + 1)
    gates = {
        "faithful": GateConfig(k_scale=0.3),
        "committed": GateConfig(k_scale=0.3, preview_scale="committed"),
        "null": GateConfig(k_scale=0.3, tau_null=100.0),
    }
    with mock.patch.object(loading, "StepScanner", EveryThirty):
        ids = prompts(model, rows, length)
        memory = library(model, ids, layer, steps + 1, settings)

        def jobs(n: int, gate: GateConfig | None) -> list[Job]:
            return [Job(str(i), own, gate or GateConfig(), memory if gate else None) for i, own in enumerate(ids[:n])]

        figures, cost = {}, {}
        single, check = _arms(model, settings, {"vanilla": jobs(1, None), **{k: jobs(1, g) for k, g in gates.items()}}, rounds)
        naive_times, equal, worst = _oracle(hf, ids[0], memory, gates["faithful"], layer, settings, check["faithful"][0], 1 if quick else 3)
        figures["steer.batch1.per_token_overhead"] = _over(single, "faithful")
        figures["steer.batch1.committed_overhead"] = _over(single, "committed")
        figures["steer.batch1.null_overhead"] = _over(single, "null")
        several, _ = _arms(model, settings, {"vanilla": jobs(rows, None), "faithful": jobs(rows, gates["faithful"])}, 1 if quick else 2)
        figures[f"steer.batch{rows}.per_token_overhead"] = _over(several, "faithful")
        vanilla, faithful = (sorted(single[k])[len(single[k]) // 2] for k in ("vanilla", "faithful"))
        published = sorted(naive_times)[len(naive_times) // 2]
        figures["steer.naive_scheme_overhead"] = published / vanilla
        figures["steer.vs_published_scheme"] = (published - vanilla) / max(faithful - vanilla, 1e-3 * vanilla)
        commits = sum(step.decision.chosen is not None for step in check["faithful"][0].steps)
        figures["steer.equal"] = equal
        figures["steer.largest_logprob_difference"] = worst
        figures["steer.commits"] = commits
        if sweeps and not quick:
            cost["overhead by candidates (batch 1)"] = _sweep(model, settings, jobs, "candidates", (1, 2, 4, 8), rounds)
            cost["overhead by probe tokens (batch 1)"] = _sweep(model, settings, jobs, "probe_tokens", (1, 2, 4, 8), rounds)
            cost["overhead by prompt length (batch 1)"] = _lengths(model, settings, gates["faithful"], layer, steps)
    ok = commits > 0 and (dtype != "float32" or (equal and worst <= 1e-4))  # bfloat16 may choose another of two equally likely tokens
    return {"dtype": dtype, "machine": machine(), "figures": figures, "cost_model": cost, "equal": ok}


def _arms(
    model: LoadedModel, settings: Settings, arms: dict[str, list[Job]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[Trace]]]:
    times: dict[str, list[float]] = {name: [] for name in arms}
    traces: dict[str, list[Trace]] = {}
    for i in range(rounds + 1):
        for name, jobs in arms.items():
            seconds, traces[name] = after_first_step(model, jobs, settings)
            if i:
                times[name].append(seconds)
    return times, traces


def _over(times: dict[str, list[float]], arm: str) -> dict[str, float]:
    ratios = sorted(a / b for a, b in zip(times[arm], times["vanilla"], strict=True))
    return {"median": ratios[len(ratios) // 2], "min": ratios[0], "max": ratios[-1]}


def _oracle(
    hf: Any, prompt: list[int], memory: Memory, gate: GateConfig, layer: int, settings: Settings, trace: Trace, rounds: int
) -> tuple[list[float], bool, float]:
    """Times of the naive scheme without its first step, whether tokens and decisions are equal, and the largest log-probability gap."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        with torch.inference_mode():
            naive.decode(hf, prompt, None, STEP, lambda out: len(out) % STEP == 0, layer)
        first = time.perf_counter() - start
        start = time.perf_counter()
        found = naive.answer(
            hf, prompt, memory, gate, layer=layer, control_points=settings.control_points, budget=settings.decode.max_new_tokens,
            ends=lambda out: len(out) % STEP == 0,
        )  # fmt: skip
        times.append(time.perf_counter() - start - first)
    logprobs = [value for step in trace.steps for value in step.logprobs]
    equal = found.ids == list(trace.token_ids) and found.chosen == [step.decision.chosen for step in trace.steps]
    equal &= len(found.logprobs) == len(logprobs)
    worst = max(abs(a - b) for a, b in zip(found.logprobs, logprobs, strict=False))
    return times, equal, worst


def _sweep(model: LoadedModel, settings: Settings, jobs: Any, key: str, values: tuple[int, ...], rounds: int) -> dict[str, float]:
    arms = {str(value): jobs(1, with_changes(GateConfig(k_scale=0.3), **{key: value})) for value in values}
    times, _ = _arms(model, settings, {"vanilla": jobs(1, None), **arms}, 1)
    return {name: _over(times, name)["median"] for name in arms}


def _lengths(model: LoadedModel, settings: Settings, gate: GateConfig, layer: int, steps: int) -> dict[str, float]:
    found = {}
    for length in (50, 200, 800):
        ids = prompts(model, 1, length)
        memory = library(model, ids, layer, steps + 1, settings)
        times, _ = _arms(model, settings, {"vanilla": [Job("0", ids[0], gate)], "steered": [Job("0", ids[0], gate, memory)]}, 1)
        found[f"{len(ids[0])} tokens"] = _over(times, "steered")["median"]
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure and print; exit code 1 if the naive scheme's decisions or tokens differ."""
    return measured("steer", __doc__, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
