"""Read a model's sizes from its files: nothing is loaded or downloaded, and torch is not imported."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import safetensors

from stir_core.errors import ModelError
from stir_core.models.catalogue import converted, resolve

_IN_A_BLOCK = re.compile(r"(^|\.)(layers|h|blocks)\.\d+\.")
_EXPERT = re.compile(r"(^|\.)experts\.")
_NAMES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "n_ctx"),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": ("num_experts_per_token", "experts_per_token", "moe_k", "top_k_experts"),
}
"""Names of one size in the configs of different architectures."""


class Shape(NamedTuple):
    """The sizes of a model that the FLOPs of a pass depend on."""

    block_parameters: int
    """Weights of all blocks' matrices that a token is multiplied with: of experts, as many as are chosen for a token."""
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
    parameters: int = 0
    """Weights of all tensors."""
    cache_width: int = 0
    """Numbers that are kept for each token of a sequence: keys and values of all layers, where each layer keeps all of them."""


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
        n_ctx = _named(config, "max_position_embeddings")
        shapes = list(_tensor_shapes(folder))
        shape = shape_of(config, [(name, each) for name, each in shapes if _IN_A_BLOCK.search(name)])
        layers = _named(config, "num_hidden_layers")
        heads = _named(config, "num_attention_heads", 0)
        width = shape.attention_width // heads * (config.get("num_key_value_heads") or heads) if heads else 0
        return Sizes(layers, _named(config, "hidden_size"), n_ctx, shape, sum(prod(each) for _, each in shapes), 2 * width)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        raise ModelError(f"{folder} does not say how large the model is ({error}): convert or download it again") from None


def shape_of(config: Any, weights: Iterable[tuple[str, tuple[int, ...]]]) -> Shape:
    """The sizes that FLOPs depend on.

    Args:
        config: of the text model; an object, or the mapping in its file.
        weights: names and shapes of the tensors of all blocks.
    """
    known: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    experts = chosen = 1
    if _named(known, "num_experts", 0):
        experts, chosen = _named(known, "num_experts"), _named(known, "num_experts_per_tok", 1)
    matrices = expert_matrices = 0
    for name, shape in weights:
        # experts are one tensor of three dimensions in memory, and in the files of some models
        if _EXPERT.search(name) and not name.endswith("bias"):
            expert_matrices += prod(shape)
        elif len(shape) == 2:
            matrices += prod(shape)
    width, heads = _named(known, "hidden_size"), _named(known, "num_attention_heads", 0)
    head = known.get("head_dim") or (width // heads if heads else 0)
    layers = _named(known, "num_hidden_layers")
    return Shape(matrices + expert_matrices * chosen // experts, width * known["vocab_size"], layers * heads * head)


def _named(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A size by its usual name or another; a ``KeyError`` if the config has none and there is no default."""
    found = next((config[each] for each in (name, *_NAMES.get(name, ())) if config.get(each) is not None), default)
    if found is None:
        raise KeyError(name)
    return found


def _tensor_shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, from the headers of the safetensors files."""
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, tuple(file.get_slice(name).get_shape())


def _downloaded(name: str) -> Path | None:
    """The snapshot of a hub model in the local cache; makes no request."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder is not None and any(folder.glob("*.safetensors")) else None
