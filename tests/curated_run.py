"""A small run to curate: pairs of entries at two control points and two layers, with tensors that can be checked by hand."""

from pathlib import Path

import numpy as np

from stir_core.config import config_from
from stir_core.records import Entry, EntryKind, Manifest, ModelIdentity, Pick
from stir_core.stages.stage import stage_digest
from stir_core.store.jsonl import write_records
from stir_core.store.runs import Run
from stir_core.store.tensors import write_tensors

WHEN = "2026-11-21T17:33:14Z"
WIDTH = 16
IDENTITY = ModelIdentity(
    name="tiny", weights_sha256="a3" * 32, tokenizer_sha256="5c" * 32, dtype="float32", architecture="Llama", n_layers=6, d_model=WIDTH
)


def curated_run(root: Path, name: str = "run", *, pairs: int = 8, picked: int = 12, seed: int = 0, model: ModelIdentity = IDENTITY) -> Run:
    """``pairs`` pairs (quality 0.2, 0.3, ...); the first half at m = 1, the rest at m = 2; every fourth in layer 5, the others in 3.

    The basis is the first ``picked`` entries; entries come corrective, null, corrective, null.
    """
    run = Run.at(root / name, config_from({"seed": 7}), {"versions": {}, "device": "cpu"})
    run.save()
    rng = np.random.default_rng(seed)
    keys, actions = rng.normal(size=(2 * pairs, WIDTH)).astype(np.float32), rng.normal(size=(pairs, WIDTH)).astype(np.float32)
    entries = [_entry(pair, kind, pairs, keys, actions) for pair in range(pairs) for kind in ("corrective", "null")]
    picks = [Pick(rank=rank, entry_id=entry.id, forced=False, gain=1.0 / (1 + rank)) for rank, entry in enumerate(entries[:picked])]
    _seal(run, "actions", model, {"entries.jsonl": entries, "lens.jsonl": []}, {"keys": keys, "actions": actions})
    _seal(run, "basis", model, {"picks.jsonl": picks}, {})
    return run


def _entry(pair: int, kind: EntryKind, pairs: int, keys: np.ndarray, actions: np.ndarray) -> Entry:
    key_row, corrective = 2 * pair + (kind == "null"), kind == "corrective"
    return Entry(
        id=f"p{pair:04d}{kind[0]}",
        kind=kind,
        pair=pair,
        problem_id=f"arithmetic/train/{pair}",
        m=1 if pair < pairs / 2 else 2,
        layer=5 if pair % 4 == 3 else 3,
        quality=0.2 + 0.1 * pair,
        reward_pos=0.2 + 0.1 * pair,
        reward_neg=0.0,
        positives=(0,),
        negatives=(1,),
        key_row=key_row,
        action_row=pair if corrective else None,
        key_norm=float(np.linalg.norm(keys[key_row])),
        action_norm=float(np.linalg.norm(actions[pair])) if corrective else None,
        reachable=True,
    )


def _seal(run: Run, stage: str, model: ModelIdentity, records: dict, tensors: dict) -> None:
    def describe() -> Manifest:
        inputs = {name: run.digest(name) for name in run.stages()}
        return Manifest(stage=stage, model=model, layers=(3, 5), config_digest=stage_digest(run.config, stage), inputs=inputs)

    with run.writing(stage, describe) as folder:
        for file, rows in records.items():
            write_records(folder / file, rows)
        if tensors:
            write_tensors(folder / f"{stage}.safetensors", tensors)
