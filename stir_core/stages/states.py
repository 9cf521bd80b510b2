"""Stage I, second part: plan the pairs of right and wrong rollouts, and store the residual stream at every control point that they need.

Most states were captured while the rollouts were sampled; the model reads only the missing ones again.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stir_core.config import RunConfig, resolve_layers
from stir_core.errors import StoreError
from stir_core.records import OnProgress, Pair, Problem, Progress, Rollout, StateRow
from stir_core.stages.stage import Made, Stage
from stir_core.store.captured import Captured
from stir_core.store.jsonl import write_records
from stir_core.store.runs import Run
from stir_core.store.tensors import write_tensors
from stir_core.tasks.segment import count_steps

if TYPE_CHECKING:
    from stir_core.models.loading import LoadedModel


def make_states(run: Run, model: "LoadedModel", part: Path, report: OnProgress) -> Made:
    """Write pairs.jsonl, rows.jsonl and states.safetensors (``layer_17: [n, d_model]``, float32; row i is ``rows[i]``)."""
    from stir_core.harvest.states import capture_states, plan_readings

    config, problems, rollouts = run.config, run.problems(), run.rollouts()
    layers = resolve_layers(config.mining.layers, model.n_layers)
    pairs = planned_pairs(run, model, problems, rollouts, len(layers))
    prompts = {rollout.problem_id: list(rollout.prompt_ids) for rollout in rollouts}
    readings = plan_readings(model, problems, rollouts, pairs, config, prompts)
    captured = Captured(part, () if config.compat else layers, model.d_model)
    rows: list[StateRow] = []
    tensors: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}

    held = [each.source == "rollout" and captured.holds(each.problem_id, each.k, each.ms) for each in readings]
    missing = [reading for reading, there in zip(readings, held, strict=True) if not there]
    if missing and run.on_latents:
        raise StoreError(f"states at latents are kept while {run.path} thinks them, and were not: add --redo rollouts")
    again, tokens = capture_states(model, missing, layers), 0
    report(Progress("states", 0, len(readings), "answers", kept=False))
    for done, (reading, there) in enumerate(zip(readings, held, strict=True), start=1):  # the plan's order, whatever was captured
        by_layer = captured.states(reading.problem_id, reading.k, reading.ms) if there else next(again).by_layer
        for i, (m, position) in enumerate(zip(reading.ms, reading.positions, strict=True)):
            rows.append(StateRow(row=len(rows), problem_id=reading.problem_id, source=reading.source, k=reading.k, m=m, position=position))
            for layer in layers:
                tensors[layer].append(np.asarray(by_layer[layer][i]))
        tokens += 0 if there else len(reading.ids)
        if not there or done == len(readings):
            report(Progress("states", done, len(readings), "answers", tokens, kept=False))
    write_records(part / "pairs.jsonl", pairs)
    write_records(part / "rows.jsonl", rows)
    named = {f"layer_{layer}": np.array(tensors[layer], np.float32).reshape(-1, model.d_model) for layer in layers}
    write_tensors(part / "states.safetensors", named)
    counts = {"pairs": len(pairs), "answers": len(readings), "states": len(rows), "read_again": len(missing)}
    return Made(counts, tokens, layers)


def planned_pairs(run: Run, model: "LoadedModel", problems: list[Problem], rollouts: list[Rollout], n_layers: int) -> list[Pair]:
    """The pairs to mine, best quality first: enough for ``top_pairs`` over all layers."""
    from stir_core.harvest.pairs import plan_pairs, without_equal_sides
    from stir_core.harvest.states import gold_solutions

    config = run.config
    golds = gold_solutions(model, problems, config)
    pairs = plan_pairs(problems, rollouts, config.mining, seed=config.seed, steps=steps_in(rollouts, config), golds=golds)
    if not (run.on_latents or config.compat):  # where control points are boundaries of tokens
        pairs = without_equal_sides(pairs, rollouts)
    return pairs[: -(-config.mining.top_pairs // n_layers)]  # rounded up, since ``top_pairs`` may end between the layers of a pair


def steps_in(rollouts: list[Rollout], config: RunConfig) -> dict[tuple[str, int], int] | None:
    """Under ``compat``, the delimiters in the text of every rollout, by (problem id, k); else ``None``: its boundaries are its steps."""
    return {(r.problem_id, r.k): count_steps(r.text, config.delimiter) for r in rollouts} if config.compat else None


def _settings(config: RunConfig) -> dict[str, Any]:
    return {"mining": config.mining.model_dump(mode="json", exclude={"stability_rolls"}), "compat": config.compat}


STAGE = Stage("states", reads=("rollouts",), settings=_settings, make=make_states)
