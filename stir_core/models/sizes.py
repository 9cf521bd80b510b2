"""Read a model's sizes from its files: nothing is loaded or downloaded, and torch is not imported."""

import json
import re
from math import prod
from pathlib import Path
from typing import NamedTuple

import safetensors

from stir_core.errors import ModelError
from stir_core.models.catalogue import converted, resolve

_IN_A_BLOCK = re.compile(r"(^|\.)(layers|h|blocks)\.\d+\.")


class Shape(NamedTuple):
    """The sizes of a model that the FLOPs of a pass depend on."""

    block_parameters: int
    """Weights of all blocks' matrices."""
    head_parameters: int
    """``d_model * d_vocab``."""
    attention_width: int
    """``n_layers * n_heads * d_head``."""


class Sizes(NamedTuple):
    """The sizes of a model that costs depend on."""

    n_layers: int
    d_model: int
    n_ctx: int
    shape: Shape


def sizes_of(name: str) -> Sizes | None:
    """Sizes of the named model; ``None`` if its files are not on this machine yet (not converted, not downloaded).

    Raises:
        ModelError: there is no such model, or its files are not those of a causal language model.
    """
    source = resolve(name)
    folder = _downloaded(name) if source.kind == "hub" else converted(source)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)  # multimodal wrappers
        width, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
        head = config.get("head_dim") or width // heads
        shape = Shape(_block_parameters(folder), width * config["vocab_size"], layers * heads * head)
        return Sizes(layers, width, config["max_position_embeddings"], shape)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ModelError(f"{folder} does not say how large the model is ({error}): convert or download it again") from None


def _block_parameters(folder: Path) -> int:
    """Weights of all blocks' matrices, from the headers of the safetensors files."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="numpy") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys() if _IN_A_BLOCK.search(name)]  # noqa: SIM118
        total += sum(prod(shape) for shape in shapes if len(shape) == 2)
    return total


def _downloaded(name: str) -> Path | None:
    """The snapshot of a hub model in the local cache; makes no request."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder is not None and any(folder.glob("*.safetensors")) else None
