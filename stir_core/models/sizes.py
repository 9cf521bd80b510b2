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
    """Weights of all tensors: of packed ones as many as they stand for, and without the scales beside them."""
    cache_width: int = 0
    """Numbers that are kept for each token of a sequence: keys and values of all layers, where each layer keeps all of them."""
    packed: int = 0
    """Weights, of all, that stay packed in memory."""
    packed_bytes: int = 0
    """What these take there, with their scales."""


class _Part(NamedTuple):
    """A tensor as the header of its file describes it."""

    name: str
    shape: tuple[int, ...]
    """Of packed numbers, one with as many dimensions and as many entries as they stand for."""
    packed: bool
    bytes: int


_WIDTH = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
"""Bytes of a stored number; of the other types, 1."""
_BESIDE = re.compile(r"(scales?|scale_inv|zeros|zero_point|g_idx|absmax|quant_map|quant_state\.\w+|SCB|weight_format|weight_shape)$")
"""Tensors beside quantised weights that are no weights themselves."""
_STAYS = ("bitsandbytes", "gptq", "awq")
"""Quantisations whose weights stay packed in memory; those of others are unpacked while they are loaded."""


def gpu_memory() -> list[int]:
    """Bytes of memory of each CUDA device; empty where there is none."""
    if not any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):  # importing torch takes seconds
        return []
    import torch

    return [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]


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
        packing = config.get("quantization_config") or {}
        config = config.get("text_config", config)  # multimodal wrappers
        n_ctx = _named(config, "max_position_embeddings")
        parts = list(_parts(folder, packing))
        weights = [part for part in parts if not (packing and _BESIDE.search(part.name))]
        shape = shape_of(config, [(part.name, part.shape) for part in weights if _IN_A_BLOCK.search(part.name)])
        layers = _named(config, "num_hidden_layers")
        heads = _named(config, "num_attention_heads", 0)
        width = shape.attention_width // heads * (config.get("num_key_value_heads") or heads) if heads else 0
        stays = packing.get("quant_method") in _STAYS
        packed = sum(prod(part.shape) for part in weights if part.packed) if stays else 0
        held = sum(part.bytes for part in parts if part.packed or part not in weights) if stays else 0
        parameters = sum(prod(part.shape) for part in weights)
        return Sizes(layers, _named(config, "hidden_size"), n_ctx, shape, parameters, 2 * width, packed, held)
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


def _parts(folder: Path, packing: Mapping[str, Any]) -> Iterator[_Part]:
    """All tensors, from the headers of the safetensors files.

    Args:
        packing: ``quantization_config``; empty: no number is packed.
    """
    bits = _bits(packing)
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                piece = file.get_slice(name)
                shape, kind = tuple(piece.get_shape()), piece.get_dtype()
                size = prod(shape) * _WIDTH.get(kind, 1)
                packed = kind[0] in "IU" and bool(packing) and not _BESIDE.search(name)
                if packed and kind != "I8":
                    shape = (1,) * (len(shape) - 1) + (8 * size // bits,)
                yield _Part(name, shape, packed, size)


def _bits(packing: Mapping[str, Any]) -> int:
    """Bits of a quantised weight, by the names that quantisations have for them."""
    if packing.get("quant_method") == "mxfp4" or packing.get("load_in_4bit"):
        return 4
    groups = [group["weights"]["num_bits"] for group in packing.get("config_groups", {}).values() if group.get("weights")]
    return int(packing.get("bits") or packing.get("w_bit") or next(iter(groups), 8))


def _downloaded(name: str) -> Path | None:
    """The snapshot of a hub model in the local cache; makes no request."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder is not None and any(folder.glob("*.safetensors")) else None
