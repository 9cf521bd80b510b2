"""The cost of steering relative to plain decoding and to the naive scheme: ``python -m benchmarks.steer [--dtype ...] [--json]``.

Every step is 30 tokens long (so that vanilla and steered answers are equally long), four candidates are previewed for four tokens, and at
every control point an action is committed: the most expensive case. Time counts from the end of the first step, which is never steered.
It is processor time, since other work on the machine stretches the clock's by an amount that a ratio of two turns does not cancel.
The naive scheme (``benchmarks.naive``) runs in the same rounds; decisions, tokens and log-probabilities must be equal to its.
``needed_vs_all`` is measured on the held-out problems of an embedded run, each answered alone with the previews that are needed and with
all of them: texts, decisions and the scores of what was previewed must be equal to the last bit.
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
from benchmarks.harness import checked, corrective, machine, measured
from stir_core.config import DecodeConfig, GateConfig, with_changes
from stir_core.intervene.controller import run_all, steer
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.memory import Memory, memory_of
from stir_core.models import loading
from stir_core.models.catalogue import prepare, resolve
from stir_core.models.loading import DTYPES, LoadedModel, load_model
from stir_core.models.passes import Feed, forward
from stir_core.models.prompting import prompt_ids
from stir_core.records import Entry, TokenEvent, Trace, TraceEvent
from stir_core.store.runs import Run
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
    """Processor seconds from the last answer's first step to the end, and the traces."""
    traces: dict[int, Trace] = {}
    start = time.process_time()
    for event in steer(model, jobs, settings):
        if isinstance(event, TokenEvent) and event.step == 1:
            start = time.process_time()
        elif isinstance(event, TraceEvent):
            traces[event.row] = event.trace
    return time.process_time() - start, [traces[row] for row in range(len(jobs))]


def measure(name: str, dtype: str, *, quick: bool, sweeps: bool = True) -> dict[str, Any]:
    """Measure everything and return the figures by name."""
    model = replace(load_model(name, dtype=dtype), stop_ids=frozenset())
    hf = AutoModelForCausalLM.from_pretrained(prepare(resolve(name)), dtype=DTYPES[dtype], attn_implementation="sdpa").eval()
    layer = round(0.6 * (model.n_layers - 1))
    steps, rounds, rows, length = (2, 1, 2, 40) if quick else (3, 3, 8, 200)
    settings = Settings(DecodeConfig(max_new_tokens=STEP * steps), control_points=steps + 1)
    gates = {
        "faithful": GateConfig(k_scale=0.3),
        "all": GateConfig(k_scale=0.3, previews="all"),
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
        figures["steer.batch1.all_previews_overhead"] = _over(single, "all")
        several, _ = _arms(model, settings, {"vanilla": jobs(rows, None), "faithful": jobs(rows, gates["faithful"])}, 1 if quick else 2)
        figures[f"steer.batch{rows}.per_token_overhead"] = _over(several, "faithful")
        vanilla, faithful = (sorted(single[k])[len(single[k]) // 2] for k in ("vanilla", "faithful"))
        published = sorted(naive_times)[len(naive_times) // 2]
        figures["steer.naive_scheme_overhead"] = published / vanilla
        figures["steer.vs_published_scheme"] = (published - vanilla) / max(faithful - vanilla, 1e-3 * vanilla)
        logprobs = sum(len(step.logprobs) for step in check["faithful"][0].steps)
        commits = sum(step.decision.chosen is not None for step in check["faithful"][0].steps)
        figures["steer.equal"] = equal
        figures["steer.largest_logprob_difference"] = worst
        figures["steer.commits"] = commits
        if sweeps and not quick:
            cost["overhead by candidates (batch 1)"] = _sweep(model, settings, jobs, "candidates", (1, 2, 4, 8), rounds)
            cost["overhead by probe tokens (batch 1)"] = _sweep(model, settings, jobs, "probe_tokens", (1, 2, 4, 8), rounds)
            cost["overhead by prompt length (batch 1)"] = _lengths(model, settings, gates["faithful"], layer, steps)
    spared = needed_vs_all("two_habits" if quick else "smollm2", dtype, 4 if quick else 8)
    figures |= {f"steer.needed_vs_all.{key}": value for key, value in spared.items()}
    same = dtype != "float32" or (equal and worst <= 1e-4)  # bfloat16 may choose another of two equally likely tokens
    told = checked(same and spared["equal"], tokens=logprobs, commits=commits, decisions=spared["decisions"])
    return {"dtype": dtype, "machine": machine(), "figures": figures, "cost_model": cost, **told}


def needed_vs_all(name: str, dtype: str, n: int) -> dict[str, Any]:
    """Preview tokens spared on the first ``n`` held-out problems of an embedded run, and whether anything else differs."""
    run = Run.open(name)
    model, memory = load_model(run.config.model.name, dtype=dtype), memory_of(run, run.library())
    tokens, decisions, wins, equal = {"needed": 0, "all": 0}, 0, 0, True
    for problem in run.problems("steered")[:n]:
        ids = prompt_ids(model, problem, run.config.task, room=run.config.decode.max_new_tokens)
        pair: list[Trace] = []
        for previews in tokens:
            gate = with_changes(run.config.gate, previews=previews)
            pair += run_all(model, [Job(problem.id, ids, gate, memory)], Settings.of(run.config))
            tokens[previews] += pair[-1].probe_tokens
        few, every = ([(s.token_ids, s.logprobs, s.decision.chosen, s.decision.alpha) for s in trace.steps] for trace in pair)
        scores = [{each.entry_id: each.score for step in trace.steps for each in step.decision.scored} for trace in pair]
        equal &= few == every and all(score in (None, scores[1][entry]) for entry, score in scores[0].items())
        asked = [step.decision for step in pair[1].steps if step.decision.scored]
        decisions, wins = decisions + len(asked), wins + sum(decision.chosen is not None for decision in asked)
    share = 1 - tokens["needed"] / tokens["all"] if tokens["all"] else 0.0
    return {"run": name, "tokens_saved": share, "decisions": decisions, "commits": wins, "equal": equal}


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
        start = time.process_time()
        with torch.inference_mode():
            naive.decode(hf, prompt, None, STEP, lambda out: len(out) % STEP == 0, layer)
        first = time.process_time() - start
        start = time.process_time()
        found = naive.answer(
            hf, prompt, memory, gate, layer=layer, control_points=settings.control_points, budget=settings.decode.max_new_tokens,
            ends=lambda out: len(out) % STEP == 0,
        )  # fmt: skip
        times.append(time.process_time() - start - first)
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
