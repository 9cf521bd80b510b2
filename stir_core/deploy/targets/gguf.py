"""llama.cpp control vectors: one GGUF file for each action, and one for the static mean.

``direction.N`` acts on the output of 0-based block N, which is ``blocks.N.hook_out`` here. The format has no block 0 (llama.cpp begins at
``direction.1``). A control vector is added at *every* token of prompt and answer: keys, gate, previews and the one-token impulse are lost.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.targets import INDEX, Recipe, file_names, index_bytes
from stir_core.errors import DeployError
from stir_core.records import Entry

if TYPE_CHECKING:
    import gguf

LOST = (
    "keys and retrieval: a file is loaded by hand, for the whole text",
    "the gate with its previews, and null entries",
    "the impulse: the vector is added at every token, prompt included, not at the last token of a step",
)
MEAN = "mean.gguf"


def control_vectors(bundle: Bundle) -> dict[str, bytes]:
    """The files of the export, by name, its index among them."""
    corrective = bundle.corrective()
    names = {id_: f"action-{stem}.gguf" for id_, stem in file_names(entry.id for _, entry in corrective).items()}
    files: dict[str, bytes] = {}
    for i, entry in corrective:
        facts = {"stir.entry": entry.id, "stir.scale": nominal_scale(bundle, entry)}
        files[names[entry.id]] = gguf_bytes(bundle, {entry.layer: bundle.actions[i]}, facts)
    means = mean_actions(bundle)
    files[MEAN] = gguf_bytes(bundle, means, {"stir.what": "mean of the corrective actions of each layer"})
    listed = [
        {"file": names[entry.id], "entry": entry.id, "layer": entry.layer, "control_point": entry.m,
         "norm": entry.action_norm, "scale": nominal_scale(bundle, entry)}
        for _, entry in corrective
    ]  # fmt: skip
    index = {
        "d_model": bundle.manifest.model.d_model,
        "use": f"llama-cli -m MODEL.gguf --control-vector-scaled {MEAN} SCALE",
        "scale": "k_scale * beta * quality: the gate's strength at cosine 1 without a preview; every token gets it, so begin lower",
        "lost": LOST,
        "mean": {"file": MEAN, "layers": sorted(means), "scale": mean_scale(bundle)},
        "actions": listed,
    }
    return files | {INDEX: index_bytes("llama.cpp control vectors", bundle, index, files)}


def check_blocks(bundle: Bundle) -> None:
    """Refuse a library that the format cannot express.

    Raises:
        DeployError: an action of block 0.
    """
    first = [entry.id for _, entry in bundle.corrective() if entry.layer == 0]
    if first:
        raise DeployError(
            f"{first[0]} acts on the output of block 0, which a llama.cpp control vector cannot express (direction.N is block N, "
            f"from 1 on): exclude the {len(first)} actions of block 0, or export another target"
        )


def nominal_scale(bundle: Bundle, entry: Entry) -> float:
    """``k_scale * beta * quality``: the multiple that the gate would inject at cosine 1 with no preview gain."""
    gate = bundle.manifest.stage3.gate
    return gate.k_scale * gate.beta * entry.quality


def mean_scale(bundle: Bundle) -> float:
    """The mean of :func:`nominal_scale` over the corrective entries."""
    return float(np.mean([nominal_scale(bundle, entry) for _, entry in bundle.corrective()]))


def mean_actions(bundle: Bundle) -> dict[int, Float[np.ndarray, "d_model"]]:
    """The mean of each layer's corrective actions: the static vector that STIR is compared with."""
    rows: dict[int, list[int]] = {}
    for i, entry in sorted(bundle.corrective(), key=lambda row: row[1].layer):
        rows.setdefault(entry.layer, []).append(i)
    return {layer: bundle.actions[own].astype(np.float64).mean(axis=0).astype(np.float32) for layer, own in rows.items()}


def gguf_bytes(bundle: Bundle, directions: Mapping[int, Float[np.ndarray, "d_model"]], facts: Mapping[str, str | float]) -> bytes:
    """A control vector file for llama.cpp, repeng and EasySteer; the same directions give the same bytes."""
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
        write_gguf(writer)
        return file.read_bytes()


def write_gguf(writer: "gguf.GGUFWriter") -> None:
    """Write header, keys and tensors, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


RECIPE = Recipe(
    "llama.cpp",
    control_vectors,
    "vectors",
    kept=("vectors, with the gate's strength at cosine 1 without a preview",),
    lost=LOST,
    check=check_blocks,
)
