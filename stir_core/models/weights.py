"""Read a causal language model from its files, whole or not at all: no tensor is made up, and no code of the folder is run."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from stir_core.errors import ModelError, first_line

UNREADABLE = (OSError, ValueError, KeyError, IndexError, RuntimeError, AttributeError, TypeError, SafetensorError)
"""Errors of other libraries about damaged or unknown files."""
_UNPACKED = ("mxfp4", "compressed-tensors")
"""Quantisations whose weights transformers unpacks while loading, to the type that is computed in."""
_PACKAGES = {"compressed-tensors": "compressed-tensors", "bitsandbytes": "bitsandbytes", "gptq": "gptqmodel", "awq": "gptqmodel"}
"""By quantisation: the package that reads it. ``mxfp4`` needs none."""


def read_weights(
    name: str,
    folder: Path,
    dtype: torch.dtype | Literal["auto"],
    *,
    device: torch.device | None = None,
    shared_out: bool = False,
    **options: Any,
) -> Any:
    """The Hugging Face model of a folder, with eager attention.

    Args:
        dtype: ``"auto"``: the type of the files.
        device: a GPU is read to directly, file by file, so that the whole model is never in the machine's own memory.
        shared_out: share the blocks out over all GPUs instead, as evenly as their memory allows.
        options: further arguments of ``from_pretrained``.

    Raises:
        ModelError: unreadable files, an encoder, quantised weights, code of its own, or tensors that are missing, left over or of another
            shape.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
        refuse_kind(name, config)
        if _quantised(config) == "compressed-tensors":
            config.quantization_config["dequantize"] = True
            options["config"] = config
        options |= {} if "gguf_file" in options else {"use_safetensors": True}
        options |= {} if device is None or device.type == "cpu" else {"device_map": "balanced" if shared_out else {"": device}}
        model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]  # it is a pair with output_loading_info
            folder, dtype=dtype, attn_implementation="eager", output_loading_info=True, trust_remote_code=False, **options
        )
    except ImportError as error:
        raise ModelError(f"{name} needs a package that is not installed ({first_line(error, 200)}): take another model") from error
    except torch.OutOfMemoryError as error:
        raise no_room(name, device, error) from error
    except UNREADABLE as error:
        raise ModelError(f"{name} cannot be loaded from {folder}: {first_line(error, 300)}") from error
    if shared_out and {"cpu", "disk"} & {str(place) for place in getattr(model, "hf_device_map", {}).values()}:
        raise ModelError(f"{name} does not fit on all GPUs of this machine together: set model.dtype=bfloat16, or take a smaller model")
    wrong = {"is missing": info["missing_keys"], "has no place in the model": info["unexpected_keys"]}
    wrong["has another shape than its config says"] = [each[0] if isinstance(each, tuple) else each for each in info["mismatched_keys"]]
    for what, keys in wrong.items():
        if keys:
            others = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise ModelError(
                f"{name} is not whole: the tensor {min(keys)}{others} {what} in {folder}; take the model from its source again, "
                "with the config that belongs to it"
            )
    return model


def no_room(name: str, device: Any, error: Exception) -> ModelError:
    """The refusal of a model that is larger than the memory of its device."""
    return ModelError(f"{name} does not fit on {device} ({first_line(error)}): set model.device=cpu or model.dtype=bfloat16")


def read_tokenizer(name: str, folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        ModelError: unreadable files.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (*UNREADABLE, ImportError) as error:
        raise ModelError(f"{name} cannot be loaded from {folder}: {first_line(error, 300)}") from error


def refuse_unfinite(name: str, model: Any) -> None:
    """Refuse weights that are infinite or not numbers.

    Raises:
        ModelError: names the first such tensor.
    """
    for part, weight in model.named_parameters():
        # a sum reads the tensor once and makes no copy; it may overflow where every weight is finite
        if not weight.sum().isfinite() and not weight.isfinite().all():
            raise ModelError(
                f"{name} is damaged: the tensor {part} holds numbers that are not finite; take the model from its source again"
            )


def refuse_kind(name: str, config: Any) -> None:
    """Refuse what is no causal language model, and quantised weights that cannot be read here.

    Raises:
        ModelError: says which, and what is missing.
    """
    kind = config.model_type
    if config.is_encoder_decoder or (getattr(config, "is_decoder", None) is False and kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES):
        raise ModelError(f"{name} is an encoder ({kind}), which reads its whole input at once: give a causal language model")
    method = _quantised(config)
    package = _PACKAGES.get(method or "")
    if package is not None and find_spec(package.replace("-", "_")) is None:
        raise ModelError(f"{name} has weights quantised with {method}: install the package {package}, or take the unquantised model")
    if method is not None and package is None and method not in _UNPACKED:
        raise ModelError(f"{name} has quantised weights ({method}), which are not read: take the unquantised model")


def _quantised(config: Any) -> str | None:
    """The method with which the weights are quantised; ``None``: they are not."""
    packing = getattr(config, "quantization_config", None)
    if not packing:
        return None
    method = packing.get("quant_method", "unknown") if isinstance(packing, dict) else getattr(packing, "quant_method", "unknown")
    return str(getattr(method, "value", method))
