"""The states at the end of every step of every rollout, for a codebook; made on request, with one pass over each rollout."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stir_core.config import RunConfig, resolve_layers
from stir_core.records import OnProgress, Progress, StepState
from stir_core.stages.stage import Made, Stage
from stir_core.store.jsonl import write_records
from stir_core.store.runs import Run
from stir_core.store.tensors import write_tensors

if TYPE_CHECKING:
    from stir_core.models.loading import LoadedModel

WINDOW = 16
"""Most states of one step that a window holds, its last ones."""


def make_steps(run: Run, model: "LoadedModel", part: Path, report: OnProgress) -> Made:
    """Write steps.jsonl and steps.safetensors: ``layer_17: [n, d_model]``, float32, row i is that of ``steps[i]``.

    With ``codes.encoder = "window"`` also ``window_17: [n * 16, d_model]``, where a window with fewer states begins with rows of zeros.
    """
    from stir_core.harvest.states import Reading, capture_states

    layers, windows = resolve_layers(run.config.mining.layers, model.n_layers), run.config.codes.encoder == "window"
    rollouts = [rollout for rollout in run.rollouts() if rollout.boundaries]
    readings = []
    for each in rollouts:
        start, last = len(each.prompt_ids), each.boundaries[-1]
        ends = (0, *each.boundaries)
        at = tuple(range(start - 1, start + last)) if windows else tuple(start + end - 1 for end in ends)
        readings.append(
            Reading(each.problem_id, "rollout", each.k, tuple(range(len(ends))), [*each.prompt_ids, *each.token_ids[:last]], at)
        )
    rows: list[StepState] = []
    tensors: dict[str, list[np.ndarray]] = {}
    tokens = 0
    for done, (each, seen) in enumerate(zip(rollouts, capture_states(model, readings, layers), strict=True), start=1):
        ends = (0, *each.boundaries)
        for m, end in enumerate(ends):
            begin = ends[m - 1] if m else 0
            text = model.text(list(each.token_ids[begin:end])) if m else ""
            rows.append(StepState(row=len(rows), problem_id=each.problem_id, k=each.k, m=m, n_tokens=end - begin, text=text))
        for layer in layers:
            states = seen.by_layer[layer].numpy()
            tensors.setdefault(f"layer_{layer}", []).append(states[list(ends)] if windows else states)
            if windows:
                tensors.setdefault(f"window_{layer}", []).extend(_window(states, ends, m) for m in range(len(ends)))
        tokens += len(seen.reading.ids)
        report(Progress("steps", done, len(rollouts), "answers", tokens, kept=False))
    write_records(part / "steps.jsonl", rows)
    write_tensors(part / "steps.safetensors", {name: np.concatenate(each).astype(np.float32) for name, each in tensors.items()})
    return Made({"answers": len(rollouts), "states": len(rows)}, tokens, layers)


def _window(states: np.ndarray, ends: tuple[int, ...], m: int) -> np.ndarray:
    """The last states of step m, ``[WINDOW, d_model]``; row 0 of ``states`` is the prompt's last."""
    begin = ends[m - 1] + 1 if m else 0
    last = states[max(begin, ends[m] + 1 - WINDOW) : ends[m] + 1]
    return np.concatenate([np.zeros((WINDOW - len(last), states.shape[1]), states.dtype), last])


def _settings(config: RunConfig) -> dict[str, Any]:
    return {"layers": config.mining.model_dump(mode="json")["layers"], "windows": config.codes.encoder == "window"}


STAGE = Stage("steps", reads=("rollouts",), settings=_settings, make=make_steps)
