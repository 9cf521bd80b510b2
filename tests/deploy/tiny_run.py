"""A small run for the tiny model, whose library steers often: for bundles, runtimes and servers."""

from pathlib import Path
from typing import Any

import numpy as np

from stir_core.config import config_from
from stir_core.records import EntryKind, Manifest, ModelIdentity, Pick
from stir_core.stages.stage import stage_digest
from stir_core.store.jsonl import write_records
from stir_core.store.runs import Run
from stir_core.store.tensors import write_tensors
from tests.builders import make_entry

M, LAYERS = 4, (1, 2)
QUESTIONS = ("one two three", "the sum of two and three", "four five six seven", "0123 + 45", "ten")


def tiny_run(root: Path, model: ModelIdentity, name: str = "run", *, scale: float = 1.0, **gate: Any) -> Run:
    """Six corrective and two null entries at each of four control points; steps end in "e", which the tiny model writes often."""
    settings = {
        "delimiter": "e",
        "task": {"template": "plain"},
        "mining": {"control_points": M, "layers": list(LAYERS)},
        "gate": {"k_retrieve": 6, "candidates": 3, "probe_tokens": 3, "k_scale": 0.7} | gate,
        "decode": {"max_new_tokens": 40},
    }
    run = Run.at(root / name, config_from(settings), {"versions": {}, "device": "cpu"})
    run.save()
    rng = np.random.default_rng(0)
    entries, keys, actions = [], [], []
    for m in range(1, M + 1):
        for i in range(8):
            kind: EntryKind = "null" if i % 4 == 3 else "corrective"
            keys.append(rng.standard_normal(model.d_model).astype(np.float32))
            vector = (scale * 3 * rng.standard_normal(model.d_model)).astype(np.float32)
            facts: dict[str, Any] = {"key_row": len(keys) - 1, "key_norm": float(np.linalg.norm(keys[-1]))}
            if kind == "corrective":
                actions.append(vector)
                facts |= {"action_row": len(actions) - 1, "action_norm": float(np.linalg.norm(vector.astype(np.float64)))}
            entries.append(make_entry(f"m{m}i{i}{kind[0]}", m, LAYERS[i % 2], 1.0 - 0.01 * i, kind, **facts))
    picks = [Pick(rank=rank, entry_id=entry.id, forced=False, gain=1.0) for rank, entry in enumerate(entries)]
    _seal(run, "actions", model, {"entries.jsonl": entries, "lens.jsonl": []}, {"keys": np.array(keys), "actions": np.array(actions)})
    _seal(run, "basis", model, {"picks.jsonl": picks}, {})
    return run


def _seal(run: Run, stage: str, model: ModelIdentity, records: dict, tensors: dict) -> None:
    def describe() -> Manifest:
        inputs = {name: run.digest(name) for name in run.stages()}
        return Manifest(stage=stage, model=model, layers=LAYERS, config_digest=stage_digest(run.config, stage), inputs=inputs)

    with run.writing(stage, describe) as folder:
        for file, rows in records.items():
            write_records(folder / file, rows)
        if tensors:
            write_tensors(folder / f"{stage}.safetensors", tensors)
