"""EasySteer on vLLM: ``SteeringSpec`` JSON files (steering API v2) that contain the vectors.

Written for EasySteer 0.29.0: a where-clause names each phase (``{"prompt_positions": [-1]}``, ``{"generation": "all"}``); the snapshots of
summer 2026 had ``phases`` instead, which 0.29.0 refuses. Vectors travel as payloads of wire version 1, kind ``direction``: float32, little
endian, base64, keyed by the 0-based decoder layer, with a SHA-256 over kind, names, shapes and bytes. A spec allows no further keys, so
model and bundle are named in the index.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.targets import INDEX, Recipe, file_names, index_bytes
from stir_core.deploy.targets.gguf import mean_actions, mean_scale, nominal_scale

SCHEMA = "EasySteer 0.29.0, steering API v2, payload wire version 1"
WIRE_VERSION = 1
IMPULSE = {"prompt_positions": [-1]}
"""At the last token of the request's prompt: STIR's impulse, if the client sends the text again for every step."""
EVERYWHERE = {"prompt": "all", "generation": "all"}
LOST = (
    "keys and retrieval: the client chooses the action",
    "the gate with its previews, and null entries",
    "steps: the impulse is at the last token of the request's prompt; for an impulse at every step the client sends the text again",
)


def steering_specs(bundle: Bundle) -> dict[str, bytes]:
    """The files of the export, by name: a spec for each action, one for the static mean, and the index."""
    corrective = bundle.corrective()
    names = {id_: f"action-{stem}.json" for id_, stem in file_names(entry.id for _, entry in corrective).items()}
    specs: dict[str, dict[str, Any]] = {}
    for i, entry in corrective:
        specs[names[entry.id]] = spec(entry.id, {entry.layer: bundle.actions[i]}, nominal_scale(bundle, entry), IMPULSE)
    specs["mean.json"] = spec("mean", mean_actions(bundle), mean_scale(bundle), EVERYWHERE)
    files = {name: (json.dumps(each, indent=2) + "\n").encode("utf-8") for name, each in specs.items()}
    facts = {
        "schema": SCHEMA,
        "use": 'vllm serve MODEL --enable-steer-vector --steer-algorithms direct; send a spec as "steering" in the request\'s body',
        "scale": "k_scale * beta * quality: the gate's strength at cosine 1 without a preview; mean.json adds it at every token",
        "lost": LOST,
        "actions": [
            {"file": names[entry.id], "entry": entry.id, "layer": entry.layer, "control_point": entry.m} for _, entry in corrective
        ],
    }
    return files | {INDEX: index_bytes("EasySteer", bundle, facts, files)}


def spec(name: str, directions: Mapping[int, Float[np.ndarray, "d_model"]], scale: float, apply: Mapping[str, Any]) -> dict[str, Any]:
    """One ``SteeringSpec`` of one vector, ready for JSON."""
    vector = {
        "data": payload(directions),
        "algorithm": "direct",
        "scale": scale,
        "layers": sorted(directions),
        "normalize": False,
        "apply": dict(apply),
        "name": name,
    }
    return {"vectors": [vector], "conflict": "priority"}


def payload(directions: Mapping[int, Float[np.ndarray, "d_model"]]) -> dict[str, Any]:
    """A ``direction`` payload in its wire form, with the digest that the engine checks."""
    rows = {f"layer.{layer}": np.ascontiguousarray(rows, "<f4") for layer, rows in directions.items()}
    digest = hashlib.sha256(f"direction:{WIRE_VERSION}".encode())
    tensors: dict[str, Any] = {}
    for name in sorted(rows):
        data = rows[name].tobytes()
        digest.update(name.encode() + str(tuple(rows[name].shape)).encode() + data)
        tensors[name] = {"shape": list(rows[name].shape), "data": base64.b64encode(data).decode("ascii")}
    return {"version": WIRE_VERSION, "kind": "direction", "tensors": tensors, "extra": {}, "sha256": digest.hexdigest()}


RECIPE = Recipe(
    "EasySteer / vLLM",
    steering_specs,
    "vectors",
    kept=("vectors, with the gate's strength at cosine 1 without a preview; an impulse at the last token of a request's prompt",),
    lost=LOST,
)
