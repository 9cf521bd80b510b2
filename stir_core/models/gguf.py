"""Dequantise a GGUF file tensor by tensor into safetensors shards, so that no more than a shard of it is in memory."""

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import modeling_gguf_pytorch_utils as legacy

from stir_core.errors import ModelError, StoreError, first_line
from stir_core.models.weights import refuse_kind

SHARD = 1 << 29
"""Bytes after which a shard is written; a larger tensor is a shard by itself."""
_ROWS = 1 << 12
"""Rows of a tensor that are dequantised at a time, which takes several times their memory."""
_ALONE = {"TensorProcessor", "LlamaTensorProcessor", "Gemma2TensorProcessor", "NemotronTensorProcessor"}
"""Processors of transformers that make one tensor of one; the others put experts together, rename or reshape."""


def unpack(file: Path, folder: Path) -> bool:
    """Write a GGUF model's config and float32 weights, with the names and the order of numbers that transformers reads.

    Returns:
        False, and nothing is written, for an architecture whose tensors are not made one by one.

    Raises:
        ModelError: not a causal language model, or a tensor is missing or of another shape.
        StoreError: the weights cannot be written.
        OSError, ValueError, KeyError, IndexError: not a GGUF file.
    """
    reader = GGUFReader(file)
    architecture = reader.fields["general.architecture"].contents()
    kind = legacy.TENSOR_PROCESSORS.get(architecture, legacy.TensorProcessor)
    if kind.__name__ not in _ALONE:
        return False
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    refuse_kind(str(file), config)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    processor = kind(config=config.to_dict())
    names = legacy.get_gguf_hf_weights_map(model, processor)
    wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}

    def flush() -> None:
        part = f"model-{len(set(index.values())) + 1:05}.safetensors"
        try:
            save_file(shard, folder / part, metadata={"format": "pt"})
        except (SafetensorError, OSError) as error:
            raise StoreError(f"{folder / part} cannot be written ({first_line(error, 300)}): free some space") from error
        index.update(dict.fromkeys(shard, part))
        shard.clear()

    for tensor in reader.tensors:
        name = names.get(tensor.name)
        if name is None:
            continue  # such as frequencies of rotary positions, which the config has
        if shard and sum(each.nbytes for each in shard.values()) + 4 * prod(wanted[name]) > SHARD:
            flush()
        read = np.empty([int(n) for n in reversed(tensor.shape)], dtype=np.float32)
        for row in range(0, len(read), _ROWS):
            read[row : row + _ROWS] = dequantize(tensor.data[row : row + _ROWS], tensor.tensor_type)
        weights = processor.process(read, tensor.name, tensor_key_mapping=names, parsed_parameters={}).weights
        if weights.shape != wanted[name]:
            raise ModelError(f"{file} is not whole: {name} has the shape {list(weights.shape)}, its config says {list(wanted[name])}")
        shard[name] = torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32))
        del read, weights
    flush()
    tied = model.all_tied_weights_keys if config.tie_word_embeddings else {}
    if missing := sorted(set(wanted) - set(index) - set(tied)):
        raise ModelError(f"{file} is not whole: the tensor {missing[0]} is missing; take the model from its source again")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}) + "\n")
    config.architectures, config.dtype = [type(model).__name__], "float32"
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    return True
