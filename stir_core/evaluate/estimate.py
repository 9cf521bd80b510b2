"""Cost of a run before it starts: bounds by formula, and expectations from finished runs of the same model and task.

A *bound* cannot be exceeded. *Expected* numbers rest on a measurement, which is named with them; without one they are ``None``, never a
guess. Loads no model, and fetches no data set.
"""

import math
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from stir_core.config import STAGES, RunConfig, resolve_layers
from stir_core.errors import StoreError, line_of
from stir_core.intervene.nearest import BYTES_BESIDE, INDEX_FROM
from stir_core.models.catalogue import file_digest, resolve
from stir_core.models.cost import Cost, flops
from stir_core.models.sizes import Shape, Sizes, gpu_memory, sizes_of
from stir_core.records import Record
from stir_core.store.runs import Run, list_runs
from stir_core.tasks import task_spec
from stir_core.tasks.benchmarks import DATA_ROOT_VARIABLE
from stir_core.tasks.registry import check_task, held_out_problems, mined_problems

STATE_BYTES = 4
"""Bytes of a stored number: states and actions are float32, whatever dtype the model computes in."""
MEMORY = "weights in memory", "keys and values in memory"
"""The rows of what a model needs while it decodes."""


class Quantity(Record):
    """One number of the estimate."""

    name: str
    unit: str
    bound: float | None = None
    """Cannot be exceeded; ``None`` where there is no such number."""
    low: float | None = None
    """Expected, at least; ``None``: not measured."""
    high: float | None = None
    """Expected, at most."""
    note: str = ""


class Measured(Record):
    """The finished run that the expectations rest on."""

    run: str
    device: str
    rollouts: int
    tokens_per_rollout: float
    longest_prompt: int
    """Tokens."""
    tokens_per_second: tuple[float, float] | None
    """Slowest and fastest rate over all runs of this model, task, dtype and device; ``None``: no run has a log."""
    differs: tuple[str, ...]
    """Settings of the rollouts that were different in it."""


class CostEstimate(Record):
    """Cost of a run up to the stage ``until``."""

    until: str
    quantities: tuple[Quantity, ...]
    measured: Measured | None
    notes: tuple[str, ...]

    def of(self, name: str) -> Quantity:
        """The quantity of that name."""
        return next(each for each in self.quantities if each.name == name)


class Lengths(NamedTuple):
    """Tokens of a run's rollouts."""

    prompts: tuple[int, ...]
    """One for each problem."""
    answers: tuple[int, ...]
    cut: tuple[bool, ...]
    """Whether the token budget ended the answer."""


def estimate(config: RunConfig, runs: Path, *, until: str = STAGES[-1]) -> CostEstimate:
    """Cost of ``stir run`` with this config up to ``until``.

    Args:
        runs: folder of finished runs; embedded runs are used as well.

    Raises:
        DataError: no such task, level, template or segmenter, the task cannot be mined, or it has fewer problems than the config asks
            for (where its data is a file on this machine).
        ModelError: no such model.
        ConfigError: a layer is not in the model.
    """
    check_task(config)
    upto = STAGES[: STAGES.index(until) + 1]
    if task_spec(config.task.name).problems is not None or os.environ.get(DATA_ROOT_VARIABLE):  # nothing is fetched for an estimate
        mined_problems(config)
        if "steered" in upto:
            held_out_problems(config)
    sizes = sizes_of(config.model.name)
    listed, broken = list_runs(runs)
    alike, lengths, damaged = _readable(_alike(config, listed))
    measured = _measured(config, alike, lengths) if lengths else None
    layers = _layers(config, sizes)
    rows = _rollout_rows(config, lengths)
    if "states" in upto and layers:
        rows.append(_states_row(config, sizes, layers))
    if "actions" in upto:
        rows += _actions_rows(config, sizes, layers)
    if "steered" in upto:
        rows += _steered_rows(config) + _library_rows(config, sizes)
    rows += _memory_rows(config, sizes)
    rows.append(_flops_row(config, sizes, lengths))
    rows.append(_time_row(rows, measured))
    return CostEstimate(
        until=until,
        quantities=tuple(rows),
        measured=measured,
        notes=(
            *_notes(config, sizes, measured, lengths, _memory_note(rows, config.model.device)),
            *(f"left out: {line}" for line in (*broken.values(), *damaged)),
        ),
    )


def _layers(config: RunConfig, sizes: Sizes | None) -> int | None:
    """Number of layers harvested; ``None`` where that depends on a model whose size is not known here."""
    specs = config.mining.layers
    if sizes is not None:
        return len(resolve_layers(specs, sizes.n_layers))
    if specs is None:
        return None
    ratios = tuple(spec for spec in specs if isinstance(spec, float) or (isinstance(spec, str) and not spec.lstrip("-").isdigit()))
    if ratios or not specs:
        resolve_layers(ratios, 1)  # ratios can be checked without the model, indices cannot; refuses an empty tuple
    return len(specs)


def _rollout_rows(config: RunConfig, lengths: Lengths | None) -> list[Quantity]:
    n, budget = config.task.n_train * config.rollouts.k, config.rollouts.max_new_tokens
    low, high = (n * each for each in mean_tokens(lengths, budget)) if lengths else (None, None)
    return [
        Quantity(name="rollouts", unit="rollouts", bound=n, low=n, high=n, note=f"{config.task.n_train} problems x {config.rollouts.k}"),
        Quantity(name="rollout tokens", unit="tokens", bound=n * budget, low=low, high=high, note=f"at most {budget} each"),
    ]


def mean_tokens(lengths: Lengths, budget: int) -> tuple[float, float]:
    """Expected tokens of a rollout under another budget, as a range: an answer that was cut off could have ended at once, or never."""
    n = len(lengths.answers)
    low = sum(min(tokens, budget) for tokens in lengths.answers)
    high = sum(budget if cut else min(tokens, budget) for tokens, cut in zip(lengths.answers, lengths.cut, strict=True))
    return min(low, high) / n, max(low, high) / n


def _states_row(config: RunConfig, sizes: Sizes | None, layers: int) -> Quantity:
    points = min(config.mining.control_points, config.rollouts.max_new_tokens)
    answers = config.task.n_train * (config.rollouts.k + (config.mining.pos_source != "rollout"))
    bound = answers * points * layers * sizes.d_model * STATE_BYTES if sizes else None
    note = f"{answers} answers x {points} control points x {layers} layer{'s' * (layers > 1)} x d_model x 4; twice that while written"
    return Quantity(name="states on disk", unit="bytes", bound=bound, note=note)


def _actions_rows(config: RunConfig, sizes: Sizes | None, layers: int | None) -> list[Quantity]:
    pairs, rolls = config.mining.top_pairs, config.mining.stability_rolls
    bound = 5 * pairs * sizes.d_model * STATE_BYTES if sizes else None
    rows = [
        Quantity(name="actions on disk", unit="bytes", bound=bound, note=f"{pairs} pairs x 5 vectors: two keys, the action, two controls")
    ]
    if rolls:
        places = math.ceil(pairs / (layers or 1)) * (config.mining.k_pos + config.mining.k_neg)
        note = f"at most {places} mined prefixes x {rolls}; how many there are is known when pairs are mined"
        rows.append(Quantity(name="re-roll tokens", unit="tokens", bound=places * rolls * config.rollouts.max_new_tokens, note=note))
    return rows


def _steered_rows(config: RunConfig) -> list[Quantity]:
    n, budget, gate = config.task.n_eval, config.decode.max_new_tokens, config.gate
    steps = min(config.mining.control_points - 1, budget)
    probes = n * steps * (gate.candidates + 1) * gate.probe_tokens
    return [
        Quantity(
            name="held-out tokens", unit="tokens", bound=2 * n * budget, note=f"{n} problems, vanilla and steered, at most {budget} each"
        ),
        Quantity(
            name="probe tokens", unit="tokens", bound=probes, note=f"{gate.candidates} candidates and null at most {steps} times per answer"
        ),
    ]


def _library_rows(config: RunConfig, sizes: Sizes | None) -> list[Quantity]:
    """What retrieval from the control basis holds in memory, and an index of it."""
    if sizes is None:
        return []
    mined, each = 2 * config.mining.top_pairs, 3 * STATE_BYTES * sizes.d_model
    n = min(mined, config.basis.budget)
    note = f"at most {n:,} entries x (key, unit key, action) x d_model x {STATE_BYTES}; library=all: {_written(mined * each, 'bytes')}"
    rows = [Quantity(name="library in memory", unit="bytes", bound=n * each, note=note)]
    if config.gate.search == "approximate":
        used = n if n >= INDEX_FROM else 0
        note = f"as much again in the cache folder; below {INDEX_FROM:,} entries of a control point and layer there is none"
        rows.append(Quantity(name="index in memory", unit="bytes", bound=used * (2 * sizes.d_model + BYTES_BESIDE), note=note))
    return rows


def _memory_rows(config: RunConfig, sizes: Sizes | None) -> list[Quantity]:
    """What decoding holds in memory; torch's own buffers and the states of the batch come on top."""
    if sizes is None:
        return []
    each, what = (2, config.model.dtype) if config.model.dtype in ("bfloat16", "float16") else (4, "float32")
    tied = "" if config.model.dtype != "auto" else "; on a GPU in the type of the files, often half of it"
    weights = (sizes.parameters - sizes.packed) * each + sizes.packed_bytes
    kept = f", {sizes.packed:,} of them packed, the others" if sizes.packed else ""
    held = min(config.rollouts.cache_tokens, config.rollouts.batch_rows * sizes.n_ctx) * sizes.cache_width * each
    return [
        Quantity(name=MEMORY[0], unit="bytes", bound=weights, note=f"{sizes.parameters:,}{kept} in {what}{tied}"),
        Quantity(name=MEMORY[1], unit="bytes", bound=held, note=f"{sizes.cache_width * each:,} bytes a token, {what}{tied}"),
    ]


def _memory_note(rows: list[Quantity], device: str) -> str | None:
    """A line where the model does not fit into the memory that it would be loaded into, or where that is not known here."""
    needed = sum(row.bound or 0 for row in rows if row.name in MEMORY)
    cards = [] if device == "cpu" else gpu_memory()
    if not cards and device in ("cuda", "all"):
        return f"model.device is {device}, and there is no CUDA device here: whether the model fits into one was not looked at"
    if not cards:
        here, place = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine has"
    elif device == "all":
        here, place = sum(cards), f"the {len(cards)} GPUs here have"
    else:
        here, place = cards[0], "the GPU here has"
    if needed <= here:
        return None
    return (
        f"weights and cache need {_written(needed, 'bytes')}, and {place} {_written(here, 'bytes')} of memory: "
        "set model.dtype=bfloat16, lower rollouts.cache_tokens, or take a machine (or a GPU) with more"
    )


def _flops_row(config: RunConfig, sizes: Sizes | None, lengths: Lengths | None) -> Quantity:
    """Forward FLOPs of the rollouts alone, without the passes that read a sequence again after it had to wait for memory."""
    name, problems, k, budget = "rollout FLOPs", config.task.n_train, config.rollouts.k, config.rollouts.max_new_tokens
    if sizes is None:
        return Quantity(name=name, unit="FLOP", note="the model is not on this machine yet, or not converted")
    if lengths is None:
        bound = rollout_flops(sizes.shape, problems, k, 0, 0, budget)
        return Quantity(name=name, unit="FLOP", bound=bound, note="of the answers alone: the length of prompts has not been measured yet")
    mean_prompt, longest = sum(lengths.prompts) / len(lengths.prompts), max(lengths.prompts)
    low, high = mean_tokens(lengths, budget)
    return Quantity(
        name=name,
        unit="FLOP",
        bound=rollout_flops(sizes.shape, problems, k, longest, k, budget),
        low=rollout_flops(sizes.shape, problems, k, mean_prompt, 1, low),
        high=rollout_flops(sizes.shape, problems, k, mean_prompt, k, high),
        note=f"a bound for prompts of up to {longest} tokens, the longest measured; each is read once (least) to {k} times (most)",
    )


def rollout_flops(shape: Shape, problems: int, k: int, prompt: float | int, reads: int, answer: float | int) -> float:
    """FLOPs of ``k`` answers of ``answer`` tokens to each problem, whose prompt is read ``reads`` times.

    Source: :func:`stir_core.models.cost.flops`. Counts every generated token as fed, although the last one often is not.
    """
    rows = problems * k
    prompts = Cost(round(problems * reads * prompt), round(problems * reads * prompt * (prompt + 1) / 2), problems * reads)
    answers = Cost(round(rows * answer), round(rows * (answer * prompt + answer * (answer + 1) / 2)), round(rows * answer))
    return flops(shape, prompts + answers)


def _time_row(rows: list[Quantity], measured: Measured | None) -> Quantity:
    """Decoding time, from expected rollouts at the fastest measured rate to all token bounds at the slowest."""
    if measured is None or measured.tokens_per_second is None:
        return Quantity(name="decoding time", unit="seconds", note="no measurement yet")
    slow, fast = measured.tokens_per_second
    decoded = [row for row in rows if row.unit == "tokens"]
    least = sum(row.low for row in decoded if row.low is not None)
    most = sum(row.bound for row in decoded if row.bound is not None)
    rate = f"{slow:g}" if slow == fast else f"{slow:g} to {fast:g}"
    note = f"at {rate} tokens/s, as measured: expected rollouts alone, to all token bounds; without loading and selection"
    return Quantity(name="decoding time", unit="seconds", low=least / fast, high=most / slow, note=note)


def _notes(config: RunConfig, sizes: Sizes | None, measured: Measured | None, lengths: Lengths | None, memory: str | None) -> list[str]:
    notes = [] if memory is None else [memory]
    if measured is None:
        notes.append(
            f"no measurement yet: no finished run of model {config.model.name} on task {config.task.name} to expect tokens or time from"
        )
    elif measured.tokens_per_second is None:
        notes.append(f"no measurement of time yet: no finished run of this model, task and dtype has a log on {measured.device}")
    if measured and measured.differs:
        notes.append(f"run {measured.run} was sampled with other settings: {', '.join(measured.differs)}")
    if sizes is None:
        notes.append(f"model {config.model.name} is not on this machine yet, or not converted: `stir models --prepare NAME` does that")
    longest = max(lengths.prompts) if lengths else 0
    if sizes and longest + config.rollouts.max_new_tokens > sizes.n_ctx:
        notes.append(f"prompts of {longest} tokens leave less than max_new_tokens of the model's {sizes.n_ctx}: such problems are refused")
    if config.rollouts.batch_rows * (longest + config.rollouts.max_new_tokens) > config.rollouts.cache_tokens:
        notes.append("rollouts.cache_tokens may be too small for a full batch of long answers: some would wait, and be read again")
    return notes


def _alike(config: RunConfig, runs: list[Run]) -> list[Run]:
    """Runs of the same model and task whose rollouts are finished: those sampled with the same settings first, then the latest."""
    source = resolve(config.model.name)
    digest = file_digest(source.path) if source.kind == "gguf" and source.path is not None else None
    ranked: list[tuple[tuple[bool, bool, float], Run]] = []
    for run in runs:
        if run.config.task.name != config.task.name or not run.finished("rollouts"):
            continue
        identity = run.manifest("rollouts").model
        if run.config.model.name == config.model.name or identity.weights_sha256 == digest:
            finished = (run.path / "rollouts" / "manifest.json").stat().st_mtime  # of an embedded run, that is when it was installed
            ranked.append(((not _differs(config, run.config), not run.embedded, finished), run))
    return [run for _, run in sorted(ranked, key=lambda each: each[0], reverse=True)]


def _readable(alike: list[Run]) -> tuple[list[Run], Lengths | None, list[str]]:
    """The runs from the first whose rollouts can be read, their lengths, and a line for each damaged one before it."""
    damaged: list[str] = []
    for i, run in enumerate(alike):
        try:
            return alike[i:], _lengths(run.path, run.digest("rollouts")), damaged
        except StoreError as error:
            damaged.append(line_of(error))
    return [], None, damaged


def _differs(config: RunConfig, other: RunConfig) -> tuple[str, ...]:
    """Settings that affect the length of rollouts and differ between the two."""
    ours, theirs = config.model_dump(mode="json"), other.model_dump(mode="json")
    relevant = {"task": ("levels", "template", "system"), "rollouts": ("temperature", "top_p", "max_new_tokens"), "model": ("dtype",)}
    return tuple(f"{section}.{key}" for section, keys in relevant.items() for key in keys if ours[section][key] != theirs[section][key])


def _measured(config: RunConfig, alike: list[Run], lengths: Lengths) -> Measured:
    timed: list[tuple[Run, float]] = []
    for run in alike:
        if run.config.model.dtype == config.model.dtype:
            timed += [(run, took.tokens_per_second) for took in run.log() if took.stage == "rollouts" and took.tokens_per_second]
    latest = alike[0]
    device = (timed[0][0] if timed else latest).facts.get("device")
    rates = [rate for run, rate in timed if run.facts.get("device") == device]
    return Measured(
        run=latest.name,
        device=str(device or "an unnamed machine"),
        rollouts=len(lengths.answers),
        tokens_per_rollout=sum(lengths.answers) / len(lengths.answers),
        longest_prompt=max(lengths.prompts),
        tokens_per_second=(min(rates), max(rates)) if rates else None,
        differs=_differs(config, latest.config),
    )


@lru_cache(maxsize=8)
def _lengths(path: Path, digest: str) -> Lengths:
    """Lengths of a run's rollouts, read once for each ``digest`` of their files."""
    run = Run.open(path)
    rollouts = run.rollouts()
    if not rollouts:
        raise StoreError(f"run {path} has no rollouts: {run.remade('rollouts')}")
    prompts = {rollout.problem_id: len(rollout.prompt_ids) for rollout in rollouts}
    answers = tuple(rollout.n_tokens for rollout in rollouts)
    return Lengths(tuple(prompts.values()), answers, tuple(rollout.finish == "length" for rollout in rollouts))


def bound_and_expectation(quantity: Quantity) -> tuple[str, str]:
    """The bound and the expected range as text; empty where there is none."""
    values = (quantity.bound, quantity.low, quantity.high)
    bound, low, high = ("" if value is None else _written(value, quantity.unit) for value in values)
    if not low or not high:
        return bound, ""
    return bound, low if low == high else f"{low} to {high}"


def _written(value: float | int, unit: str) -> str:
    """A number with its unit, rounded where exactness would mislead."""
    if unit == "seconds":
        if value < 120:
            return f"{value:.0f} s"
        return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
    if unit == "bytes":
        return f"{value / 1e6:.1f} MB" if value < 1e9 else f"{value / 1e9:.1f} GB"
    return f"{value:.2e}" if unit == "FLOP" else f"{value:,.0f}"
