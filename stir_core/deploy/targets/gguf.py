"""llama.cpp control vectors: one GGUF an action, and one for the static mean.

``direction.N`` acts on the output of 0-based block N, which is ``blocks.N.hook_out`` here; block 0 has no place in the format (llama.cpp
begins at ``direction.1``). A control vector is added at *every* token, prompt included: keys, gate, previews and the
one-token impulse are lost.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.targets import INDEX, Recipe, file_names, index_bytes
from stir_core.errors import DeployError
from stir_core.records import Entry

LOST = (
    "keys and retrieval: a file is loaded by hand, for the whole text",
    "the gate with its previews, and null entries",
    "the impulse: the vector is added at every token, prompt included, not at the last token of a step",
)
MEAN = "mean.gguf"


def control_vectors(bundle: Bundle) -> dict[str, bytes]:
    """The files of the export, by name, its index among them."""
    corrective = [(i, entry) for i, entry in enumerate(bundle.entries) if entry.kind == "corrective"]
    stems = file_names(tuple(entry.id for _, entry in corrective))
    files = {f"action-{stems[entry.id]}.gguf": _action(bundle, entry, bundle.actions[i]) for i, entry in corrective}
    means = mean_actions(bundle)
    files[MEAN] = gguf_bytes(bundle, means, {"stir.what": "mean of the corrective actions of each layer"})
    listed = [
        {"file": f"action-{stems[entry.id]}.gguf", "entry": entry.id, "layer": entry.layer, "control_point": entry.m,
         "norm": entry.action_norm, "scale": nominal_scale(bundle, entry)}
        for _, entry in corrective
    ]  # fmt: skip
    mean = {"file": MEAN, "layers": sorted(means), "scale": mean_scale(bundle)}
    facts = {
        "base_model": bundle.manifest.base_model,
        "bundle": bundle.manifest.digest,
        "d_model": bundle.manifest.model.d_model,
        "use": f"llama-cli -m MODEL.gguf --control-vector-scaled {MEAN} SCALE",
        "scale": "k_scale * beta * quality: the gate's strength at cosine 1 without a preview; every token gets it, so begin lower",
        "lost": LOST,
        "mean": mean,
        "actions": listed,
    }
    files[INDEX] = index_bytes("llama.cpp control vectors", facts)
    return files


def check_blocks(bundle: Bundle) -> None:
    """Refuse what the format has no place for.

    Raises:
        DeployError: an action of block 0.
    """
    first = [entry.id for entry in bundle.entries if entry.kind == "corrective" and entry.layer == 0]
    if first:
        raise DeployError(
            f"{first[0]} acts on the output of block 0, which a llama.cpp control vector cannot express (direction.N is block N, "
            f"from 1 on): exclude the {len(first)} actions of block 0, or export another target"
        )


def nominal_scale(bundle: Bundle, entry: Entry) -> float:
    """``k_scale * beta * quality``: what the gate would inject at cosine 1 with no preview gain."""
    gate = bundle.manifest.stage3.gate
    return gate.k_scale * gate.beta * entry.quality


def mean_scale(bundle: Bundle) -> float:
    """The mean of :func:`nominal_scale` over the corrective entries."""
    return float(np.mean([nominal_scale(bundle, entry) for entry in bundle.entries if entry.kind == "corrective"]))


def mean_actions(bundle: Bundle) -> dict[int, Float[np.ndarray, "d_model"]]:
    """The mean of each layer's corrective actions: the static vector that STIR is compared with."""
    layers = sorted({entry.layer for entry in bundle.entries if entry.kind == "corrective"})
    own = {layer: [i for i, e in enumerate(bundle.entries) if e.kind == "corrective" and e.layer == layer] for layer in layers}
    return {layer: bundle.actions[rows].astype(np.float64).mean(axis=0).astype(np.float32) for layer, rows in own.items()}


def gguf_bytes(bundle: Bundle, directions: Mapping[int, Float[np.ndarray, "d_model"]], facts: Mapping[str, str | float]) -> bytes:
    """A control vector file as llama.cpp, repeng and EasySteer read it; the same directions give the same bytes."""
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vector.gguf"
        writer = gguf.GGUFWriter(file, "controlvector")
        writer.add_string("controlvector.model_hint", bundle.manifest.model.architecture.removesuffix("ForCausalLM").lower())
        writer.add_uint32("controlvector.layer_count", len(directions))
        for key, value in {**facts, "stir.bundle": bundle.manifest.digest}.items():
            writer.add_string(key, value) if isinstance(value, str) else writer.add_float32(key, value)
        for layer, direction in sorted(directions.items()):
            writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(direction, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()


def _action(bundle: Bundle, entry: Entry, action: Float[np.ndarray, "d_model"]) -> bytes:
    return gguf_bytes(bundle, {entry.layer: action}, {"stir.entry": entry.id, "stir.scale": nominal_scale(bundle, entry)})


RECIPE = Recipe(
    "llama.cpp",
    control_vectors,
    "vectors",
    kept=("vectors, with the gate's strength at cosine 1 without a preview",),
    lost=LOST,
    check=check_blocks,
)
