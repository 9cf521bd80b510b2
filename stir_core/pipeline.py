"""The stages in order, each reading the folders before it and writing its own: run, resume, status.

The stages themselves are plain functions elsewhere; this layer only knows which files feed which. A finished stage is never made
again unless asked, and an unfinished one goes on where it stopped.
"""

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from stir_core import __version__
from stir_core.basis.geometry import pca_map, umap_map
from stir_core.basis.making import choose_basis
from stir_core.config import STAGES, RunConfig, resolve_layers, stage_digest, with_changes
from stir_core.errors import StoreError
from stir_core.harvest.actions import mine
from stir_core.harvest.controls import measure
from stir_core.harvest.pairs import Pair, plan_pairs
from stir_core.harvest.rollouts import sample_rollouts
from stir_core.harvest.stability import continuations, place_of, plan_prefixes, shares
from stir_core.harvest.states import Reading, capture_states, finished_steps, gold_solutions, plan_readings
from stir_core.intervene.controller import steer
from stir_core.intervene.jobs import Job, Settings
from stir_core.intervene.memory import Memory
from stir_core.intervene.session import graded
from stir_core.models.lens import lens_of
from stir_core.models.loading import LoadedModel, model_of
from stir_core.records import Continuation, Entry, Manifest, Pick, Problem, Rollout, StateRow, Trace, TraceEvent
from stir_core.store.captured import Captured
from stir_core.store.jsonl import append_records, read_records, write_records
from stir_core.store.runs import Run
from stir_core.store.tensors import read_tensors, write_tensors
from stir_core.tasks import Grader, load_problems, render


class Progress(NamedTuple):
    """How far a stage has come."""

    stage: str
    done: int
    total: int
    unit: str
    tokens: int = 0
    """Tokens decoded by this process in this stage."""


Report = Callable[[Progress], None]
"""What is told how far a stage has come."""


def run_stages(
    config: RunConfig,
    out: Path,
    *,
    until: str = STAGES[-1],
    redo: str | None = None,
    command: str | None = None,
    report: Report = lambda progress: None,
    model: LoadedModel | None = None,
) -> Run:
    """Make the run at ``out`` up to and including the stage ``until``; finished stages are kept.

    Args:
        redo: make this stage and all later ones again.
        command: the command line that makes the run, kept in run.json for readers.
        model: a loaded model, when there is one already; else the config's is loaded when first needed.

    Raises:
        StirError: see the stages; whatever was finished before stays.
    """
    run = Run.at(out, config, environment() | {"command": command})
    again = STAGES[STAGES.index(redo) :] if redo is not None else ()
    kept = [stage for stage in STAGES if run.finished(stage) and stage not in again]
    for stage in kept:  # before anything is written: a refusal leaves the run as it was
        run.check_fresh(stage)
    wanted = STAGES[: STAGES.index(until) + 1]
    if config.basis.quality == "measured" and "basis" in wanted and "basis" not in kept and not run.advantages():
        raise StoreError(f"run {run.path} has no measured advantages to select on: make them with `stir causal {run.path}`")
    if all(stage in kept for stage in wanted):
        return run
    if model is None:
        model = model_of(config.model)
    run.check_model(model.identity, kept)
    if redo is not None:
        run.discard(redo)
    run.save()
    missing = [stage for stage in wanted if stage not in kept]
    for stage in missing:
        started = time.monotonic()
        tokens = _MAKERS[stage](run, model, report)
        _log(run, stage, time.monotonic() - started, tokens)
    return run


def begin_from(base: Run, config: RunConfig, out: Path, model: LoadedModel) -> None:
    """Begin a run of other mining or selection settings with a finished run's rollouts, and with its states as far as they serve.

    Raises:
        StoreError: the base run's rollouts are not finished, or were sampled with other settings.
    """
    run = Run.at(out, config, environment())
    if run.finished("rollouts"):
        return
    if base.manifest("rollouts").config_digest != stage_digest(config, "rollouts"):
        raise StoreError(f"the rollouts of {base.path} were sampled with other settings than this config's: make a run of its own")
    shutil.copytree(base.folder("rollouts"), run.part("rollouts"), dirs_exist_ok=True)
    run.part("rollouts").rename(run.path / "rollouts")
    layers = resolve_layers(config.mining.layers, model.n_layers)
    if base.finished("states") and not config.compat and not base.config.compat and set(layers) <= set(base.manifest("states").layers):
        tensors = read_tensors(base.folder("states") / "states.safetensors", columns=model.d_model)
        rows = read_records(base.folder("states") / "rows.jsonl", StateRow)
        Captured(_take_up(run, "states", model), layers, model.d_model).adopt(rows, {layer: tensors[f"layer_{layer}"] for layer in layers})


def environment() -> dict[str, Any]:
    """Versions, source revision and machine: what a reader needs to make the run again. Not part of any digest."""
    packages: dict[str, str] = {"stir-workbench": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "transformer-lens", "numpy", "umap-learn"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    root = Path(__file__).resolve().parents[1]
    git = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    revision = git.stdout.strip() if git.returncode == 0 and (root / ".git").exists() else None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {"versions": packages, "git_revision": revision, "device": device}


def short_environment(facts: dict[str, Any] | None = None) -> dict[str, str]:
    """What a reader of a report needs of the :func:`environment`, as text."""
    facts = environment() if facts is None else facts
    wanted = ("stir-workbench", "torch", "transformers", "transformer-lens")
    found = {name: str(text) for name, text in facts["versions"].items() if name in wanted}
    return found | {"revision": str(facts["git_revision"] or "none")[:12], "device": str(facts["device"])}


def _make_rollouts(run: Run, model: LoadedModel, report: Report) -> int:
    config = run.config
    problems = load_problems(config.task.name, "mine", n=config.task.n_train, seed=config.seed, levels=config.task.levels)
    part = _take_up(run, "rollouts", model)
    write_records(part / "problems.jsonl", problems)
    file = part / "rollouts.jsonl"
    known = read_records(file, Rollout, torn="drop") if file.exists() else []
    done = {(rollout.problem_id, rollout.k) for rollout in known}
    layers = () if config.compat else resolve_layers(config.mining.layers, model.n_layers)
    captured = Captured(_take_up(run, "states", model), layers, model.d_model)
    total, tokens = len(problems) * config.rollouts.k, 0
    report(Progress("rollouts", len(done), total, "rollouts"))
    with Grader() as grader:
        prompts = [(problem, _prompt_ids(model, problem, config, config.rollouts.max_new_tokens)) for problem in problems]
        try:
            for rollout, states in sample_rollouts(model, prompts, config, grader.judge, frozenset(done), layers):
                append_records(file, [rollout])
                captured.add(rollout, states)
                known.append(rollout)
                tokens += rollout.n_tokens
                report(Progress("rollouts", len(known), total, "rollouts", tokens))
        finally:
            captured.flush()
    order = {problem.id: i for i, problem in enumerate(problems)}
    known.sort(key=lambda rollout: (order[rollout.problem_id], rollout.k))  # the order of arrival depends on the batch
    counts = {
        "problems": len(problems),
        "rollouts": len(known),
        "correct": sum(rollout.verdict.correct for rollout in known),
        "unfinished": sum(not rollout.verdict.finished for rollout in known),
        "tokens": sum(rollout.n_tokens for rollout in known),
    }
    with run.writing("rollouts", lambda: _manifest(run, "rollouts", model, counts)) as folder:
        write_records(folder / "rollouts.jsonl", known)
        (folder / "marker").unlink()
    return tokens


def _make_states(run: Run, model: LoadedModel, report: Report) -> int:
    config = run.config
    layers = resolve_layers(config.mining.layers, model.n_layers)
    pairs = _planned(run, model, layers, _steps(run, model))
    readings = _readings(run, model, pairs)
    part = _take_up(run, "states", model)
    captured = Captured(part, () if config.compat else layers, model.d_model)
    rows: list[StateRow] = []
    tensors: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}

    def keep(reading: Reading, by_layer: dict[int, np.ndarray]) -> None:
        for i, (m, position) in enumerate(zip(reading.ms, reading.positions, strict=True)):
            rows.append(StateRow(row=len(rows), problem_id=reading.problem_id, source=reading.source, k=reading.k, m=m, position=position))
            for layer in layers:
                tensors[layer].append(by_layer[layer][i])

    missing = [reading for reading in readings if not captured.holds(reading)]
    for reading in readings:
        if captured.holds(reading):
            keep(reading, captured.states(reading))
    tokens = 0
    for done, (reading, by_layer) in enumerate(capture_states(model, missing, layers), start=1):
        keep(reading, {layer: states.numpy() for layer, states in by_layer.items()})
        tokens += len(reading.ids)
        report(Progress("states", len(readings) - len(missing) + done, len(readings), "answers", tokens))
    if not missing:
        report(Progress("states", len(readings), len(readings), "answers"))
    counts = {"pairs": len(pairs), "answers": len(readings), "states": len(rows), "read_again": len(missing)}
    with run.writing("states", lambda: _manifest(run, "states", model, counts, layers)) as folder:
        write_records(folder / "rows.jsonl", rows)
        named = {f"layer_{layer}": np.array(tensors[layer], np.float32).reshape(-1, model.d_model) for layer in layers}
        write_tensors(folder / "states.safetensors", named)
        captured.clear()
        (folder / "marker").unlink()
    return tokens


def _make_actions(run: Run, model: LoadedModel, report: Report) -> int:
    config = run.config
    layers = run.manifest("states").layers
    steps = _steps(run, model)
    pairs = _planned(run, model, layers, steps)
    rows = read_records(run.folder("states") / "rows.jsonl", StateRow)
    tensors = read_tensors(run.folder("states") / "states.safetensors", columns=model.d_model)
    states = {layer: tensors[f"layer_{layer}"] for layer in layers}
    mined = mine(pairs, rows, states, config.mining)
    corrective = [entry.id for entry in mined.entries if entry.kind == "corrective"]
    lenses = lens_of(model, corrective, torch.from_numpy(mined.actions)) if corrective else []
    notes = [f"{len(mined.skipped)} pairs left out, e.g. {mined.skipped[0]}"] if mined.skipped else []
    if not mined.entries:
        notes.append(
            "no problem has both a right and a wrong rollout at a control point: there is nothing to steer with; "
            "mine more or other problems"
        )
    counts = {
        "entries": len(mined.entries),
        "actions": len(mined.actions),
        "problems": len({entry.problem_id for entry in mined.entries}),
        "unreachable": sum(not entry.reachable for entry in mined.entries),
    }
    _take_up(run, "actions", model)
    rolled, tokens = _rolled_again(run, model, mined.entries, pairs, report)
    stability = shares(mined.entries, rolled)
    controls = measure(mined.entries, mined.actions, run.rollouts(), rows, states, config, steps=steps, stability=stability)
    with run.writing("actions", lambda: _manifest(run, "actions", model, counts, layers, notes)) as folder:
        write_records(folder / "entries.jsonl", mined.entries)
        write_records(folder / "lens.jsonl", lenses)
        write_tensors(folder / "actions.safetensors", {"keys": mined.keys, "actions": mined.actions})
        write_records(folder / "controls.jsonl", controls.records)
        write_tensors(folder / "controls.safetensors", {"length_matched": controls.length_matched, "shuffled": controls.shuffled})
        (folder / "marker").unlink()
    report(Progress("actions", len(mined.actions), len(mined.actions), "actions"))
    return tokens


def _rolled_again(run: Run, model: LoadedModel, entries: list[Entry], pairs: list[Pair], report: Report) -> tuple[list[Continuation], int]:
    """Continuations of every mined prefix, appended as they end; with the tokens that this process sampled."""
    config = run.config
    if not config.mining.stability_rolls:
        return [], 0
    problems = {problem.id: problem for problem in run.problems()}
    prefixes = plan_prefixes(entries, _readings(run, model, pairs), problems, _prompts(run, model))
    file = run.part("actions") / "continuations.jsonl"
    known = read_records(file, Continuation, torn="drop") if file.exists() else []
    done = frozenset((place_of(each), each.roll) for each in known)
    total, tokens = len(prefixes) * config.mining.stability_rolls, 0
    report(Progress("actions", len(known), total, "continuations"))
    with Grader() as grader:
        for each in continuations(model, prefixes, config, grader.judge, done):
            append_records(file, [each])
            known.append(each)
            tokens += each.n_tokens
            report(Progress("actions", len(known), total, "continuations", tokens))
    order = {prefix.place: i for i, prefix in enumerate(prefixes)}
    known.sort(key=lambda each: (order[place_of(each)], each.roll))  # the order of arrival depends on the batch
    write_records(file, known)
    return known, tokens


def _make_basis(run: Run, model: LoadedModel, report: Report) -> int:
    config = run.config
    entries, keys = run.entries(), run.key_rows()
    notes: list[str] = []
    picks: list[Pick] = []
    maps: dict[str, np.ndarray] = {}
    if entries:
        advantages = run.advantages() if config.basis.quality == "measured" else {}
        picks, keys, notes = choose_basis(entries, keys, config, run.key_space(), advantages)
        maps["pca"] = pca_map(keys)
        flat = umap_map(keys, seed=config.seed)
        if flat is not None:
            maps["umap"] = flat
    chosen = {pick.entry_id for pick in picks}
    counts = {
        "candidates": len(entries),
        "picked": len(picks),
        "forced": sum(pick.forced for pick in picks),
        "corrective": sum(entry.id in chosen and entry.kind == "corrective" for entry in entries),
    }
    _take_up(run, "basis", model)
    measured = {"advantages": run.advantages_digest()} if config.basis.quality == "measured" else {}

    def manifest() -> Manifest:
        made = _manifest(run, "basis", model, counts, run.manifest("actions").layers, notes)
        return made.replaced(inputs=made.inputs | measured)

    with run.writing("basis", manifest) as folder:
        write_records(folder / "picks.jsonl", picks)
        write_tensors(folder / "map.safetensors", {name: flat.astype(np.float32) for name, flat in maps.items()})
        (folder / "marker").unlink()
    report(Progress("basis", len(picks), len(picks), "picks"))
    return 0


def _make_steered(run: Run, model: LoadedModel, report: Report) -> int:
    config = run.config
    n = config.task.n_eval
    problems = load_problems(config.task.name, config.task.held_out, n=n, seed=config.seed, levels=config.task.levels) if n else ()
    library = run.library()
    memory = Memory(*library, run.key_space()) if library.entries else None
    part = _take_up(run, "steered", model)
    write_records(part / "problems.jsonl", problems)
    files = {"vanilla": part / "vanilla.jsonl", "steered": part / "steered.jsonl"}
    known = {kind: read_records(file, Trace, torn="drop") if file.exists() else [] for kind, file in files.items()}
    by_id = {problem.id: problem for problem in problems}
    jobs, kinds = _held_out_jobs(model, config, problems, memory, {kind: {trace.id for trace in traces} for kind, traces in known.items()})
    settings = Settings(
        config.decode, config.mining.control_points, config.delimiter, config.seed, config.compat, 2 * config.decode.batch_problems
    )
    tokens, total = 0, 2 * len(problems)
    report(Progress("steered", total - len(jobs), total, "answers"))
    with Grader() as grader:
        for event in steer(model, jobs, settings):
            if isinstance(event, TraceEvent):
                settled = graded(event, by_id[event.trace.id], grader)
                trace = settled.trace if isinstance(settled, TraceEvent) else event.trace
                known[kinds[event.row]].append(trace)
                append_records(files[kinds[event.row]], [trace])
                tokens += trace.forward_tokens
                report(Progress("steered", sum(map(len, known.values())), total, "answers", tokens))
    order = {problem.id: i for i, problem in enumerate(problems)}
    counts = {"problems": len(problems)}
    for kind, traces in known.items():
        traces.sort(key=lambda trace: order[trace.id])
        counts[f"{kind}_correct"] = sum(trace.verdict is not None and trace.verdict.correct for trace in traces)
        counts[f"{kind}_tokens"] = sum(trace.tokens_used for trace in traces)
        counts[f"{kind}_probe_tokens"] = sum(trace.probe_tokens for trace in traces)
    counts["commits"] = sum(step.decision.chosen is not None for trace in known["steered"] for step in trace.steps)
    counts["decisions"] = sum(step.evidence.not_retrieved is None for trace in known["steered"] for step in trace.steps)
    with run.writing("steered", lambda: _manifest(run, "steered", model, counts, run.manifest("actions").layers)) as folder:
        for kind, traces in known.items():
            write_records(folder / f"{kind}.jsonl", traces)
        (folder / "marker").unlink()
    return tokens


def _held_out_jobs(
    model: LoadedModel, config: RunConfig, problems: Sequence[Problem], memory: Memory | None, done: dict[str, set[str]]
) -> tuple[list[Job], list[str]]:
    """A vanilla and a steered answer to every problem, those that are there already left out; with their kinds."""
    gates = {"vanilla": with_changes(config.gate, variant="no_memory"), "steered": config.gate}
    jobs: list[Job] = []
    kinds: list[str] = []
    for problem in problems:
        for kind, gate in gates.items():
            if problem.id not in done[kind]:
                ids = _prompt_ids(model, problem, config, config.decode.max_new_tokens)
                jobs.append(Job(problem.id, ids, gate, memory if kind == "steered" else None))
                kinds.append(kind)
    return jobs, kinds


_MAKERS: dict[str, Callable[[Run, LoadedModel, Report], int]] = {
    "rollouts": _make_rollouts,
    "states": _make_states,
    "actions": _make_actions,
    "basis": _make_basis,
    "steered": _make_steered,
}


def _planned(run: Run, model: LoadedModel, layers: tuple[int, ...], steps: dict[tuple[str, int], int]) -> list[Pair]:
    """The pairs that are mined: best quality first, as many as ``top_pairs`` reaches over all layers."""
    config, problems = run.config, run.problems()
    golds = gold_solutions(model, problems, config)
    pairs = plan_pairs(problems, run.rollouts(), config.mining, seed=config.seed, steps=steps, golds=golds)
    return pairs[: -(-config.mining.top_pairs // len(layers))]  # rounded up: the last pair may be cut between its layers


def _steps(run: Run, model: LoadedModel) -> dict[tuple[str, int], int]:
    """Finished steps of every rollout, by (problem id, k)."""
    return {(r.problem_id, r.k): finished_steps(model, list(r.token_ids), r.text, run.config) for r in run.rollouts()}


def _readings(run: Run, model: LoadedModel, pairs: list[Pair]) -> list[Reading]:
    return plan_readings(model, run.problems(), run.rollouts(), pairs, run.config, _prompts(run, model))


def _prompts(run: Run, model: LoadedModel) -> dict[str, list[int]]:
    return {problem.id: _prompt_ids(model, problem, run.config, 1) for problem in run.problems()}


def _prompt_ids(model: LoadedModel, problem: Problem, config: RunConfig, room: int) -> list[int]:
    return model.chat_ids(render(problem, config.task.template), config.task.system, room=room)


def _take_up(run: Run, stage: str, model: LoadedModel) -> Path:
    """The stage's ``.part`` folder; what an attempt with other settings or another model left there is thrown away."""
    part = run.part(stage)
    marker = f"{stage_digest(run.config, stage)} {model.identity.weights_sha256} {model.identity.dtype}\n"
    if part.is_dir() and (not (part / "marker").is_file() or (part / "marker").read_text() != marker):
        shutil.rmtree(part)
    part.mkdir(parents=True, exist_ok=True)
    (part / "marker").write_text(marker)
    return part


def _manifest(
    run: Run, stage: str, model: LoadedModel, counts: dict[str, int], layers: tuple[int, ...] = (), notes: Iterable[str] = ()
) -> Manifest:
    before = STAGES[: STAGES.index(stage)]
    return Manifest(
        stage=stage,
        model=model.identity,
        layers=layers,
        config_digest=stage_digest(run.config, stage),
        inputs={name: run.digest(name) for name in before},
        counts=counts,
        notes=tuple(notes),
    )


def _log(run: Run, stage: str, seconds: float, tokens: int) -> None:
    """One line a made stage: what it took. Times stay out of the stages themselves, so that equal results are equal files."""
    line = {
        "stage": stage,
        "seconds": round(seconds, 1),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if tokens else None,
    }
    with (run.path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
