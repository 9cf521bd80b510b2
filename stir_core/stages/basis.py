"""Stage II: choose the sparse control basis among the mined entries, and map all entries to two dimensions. Needs no forward pass."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stir_core.config import RunConfig
from stir_core.errors import StoreError
from stir_core.records import OnProgress, Pick, Progress
from stir_core.stages.stage import Made, Stage
from stir_core.store.jsonl import write_records
from stir_core.store.runs import Run
from stir_core.store.tensors import write_tensors

if TYPE_CHECKING:
    from stir_core.models.loading import LoadedModel


def make_basis(run: Run, model: "LoadedModel", part: Path, report: OnProgress) -> Made:
    """Write picks.jsonl, map.safetensors (``umap``, ``pca``: ``[n_entries, 2]``) and margins.jsonl."""
    from stir_core.basis.geometry import pca_map, umap_map
    from stir_core.basis.making import choose_basis
    from stir_core.evaluate.probe import chosen_by_quality, margin_thresholds

    config, measured = run.config, run.config.basis.quality == "measured"
    entries, keys = run.entries(), run.key_rows()
    notes: list[str] = []
    picks: list[Pick] = []
    maps: dict[str, np.ndarray] = {}
    if entries:
        picks, keys, notes = choose_basis(entries, keys, config, run.key_space(), run.advantages() if measured else {})
        maps["pca"] = pca_map(keys)
        flat = umap_map(keys, seed=config.seed)
        if flat is not None:
            maps["umap"] = flat
    write_records(part / "picks.jsonl", picks)
    write_tensors(part / "map.safetensors", {name: flat.astype(np.float32) for name, flat in maps.items()})
    report(Progress("basis", len(picks), len(picks), "picks"))
    write_records(part / "margins.jsonl", margin_thresholds(run, run.library_of(picks)) if entries else [])
    if config.gate.rule == "calibrated" and chosen_by_quality(run):
        notes.append(f"margins measured on the {config.mining.top_pairs} best pairs look better than they are: raise mining.top_pairs")
    chosen = {pick.entry_id for pick in picks}
    counts = {
        "candidates": len(entries),
        "picked": len(picks),
        "forced": sum(pick.forced for pick in picks),
        "corrective": sum(entry.id in chosen and entry.kind == "corrective" for entry in entries),
    }
    inputs = {"advantages": run.advantages_digest() or ""} if measured else {}
    return Made(counts, layers=run.manifest("actions").layers, notes=tuple(notes), inputs=inputs)


def _check(run: Run) -> None:
    if run.config.basis.quality == "measured" and not run.advantages():
        raise StoreError(f"run {run.path} has no measured advantages to select on: make them with `stir causal {run.path}`")


def _settings(config: RunConfig) -> dict[str, Any]:
    left_out = {"quality"} if config.basis.quality == "mined" else set()  # keeps digests of older runs valid
    return {"basis": config.basis.model_dump(mode="json", exclude=left_out)}


STAGE = Stage("basis", reads=("actions",), settings=_settings, make=make_basis, check=_check)
