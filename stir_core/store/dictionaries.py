"""Dictionaries of features: the decoder of a user's sparse autoencoder or transcoder in a safetensors file.

Such a file does not say which model and layer it was trained on. Its width is checked, and the layer where a ``cfg.json`` of SAELens lies
beside it.
"""

import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import safetensors
from jaxtyping import Float

from stir_core.errors import DataError, StoreError
from stir_core.store.tensors import MAX_BYTES

NAMES = ("W_dec", "decoder.weight", "decoder", "W_d")
"""Usual names of a decoder's tensor, in the order they are looked for; the second is a linear layer's, ``[d_model, features]``."""
_DTYPES = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


def read_dictionary(
    file: Path, *, columns: int, layer: int, tensor: str | None = None
) -> tuple[str, Float[np.ndarray, "features d_model"]]:
    """The decoder's directions in the residual stream, scaled to unit norm; a direction of zeros stays one.

    Args:
        columns: width of the residual stream. A tensor ``[d_model, features]`` is turned; one as wide as high is only where it has the name
            of a linear layer, ``decoder.weight``.
        layer: 0-based block whose output the directions are compared with.
        tensor: its name in the file; ``None``: the first of :data:`NAMES`.

    Returns:
        The tensor's name, and float32 rows.

    Raises:
        StoreError: no such file or tensor, another width, values that are not finite, or no direction.
        DataError: the configuration beside the file names another layer.
    """
    _check_layer(file, layer)
    name, shape, dtype = _decoder(file, columns, tensor)
    rows = _read(file, name, shape, dtype)
    if shape[1] != columns or (shape[0] == columns and name == "decoder.weight"):
        rows = rows.T
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise StoreError(f'{file}: tensor "{name}" holds values that are not finite, or are above 1e19: copy it again')
    if not norms.any():
        raise StoreError(f'{file}: tensor "{name}" is {list(rows.shape)} and holds no direction but zeros: take another tensor or file')
    return name, rows / np.where(norms > 0, norms, 1)


def dictionaries_in(folder: Path, columns: int) -> list[Path]:
    """The dictionaries of this width in a folder and in the folders below it, by name; other files are passed over."""
    found: list[Path] = []
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]):
        with suppress(StoreError):
            _decoder(file, columns, None)
            found.append(file)
    return found


def _decoder(file: Path, columns: int, tensor: str | None) -> tuple[str, list[int], np.dtype]:
    """Name, shape and type of the decoder's tensor, from the file's header."""
    if not file.is_file():
        raise StoreError(f"{file} does not exist: give the safetensors file of a dictionary")
    if file.stat().st_size > MAX_BYTES:
        raise StoreError(f"{file} is {file.stat().st_size >> 20} MB, more than the {MAX_BYTES >> 20} MB that are read at once")
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            known = list(opened.keys())
            name = tensor if tensor is not None else next((name for name in NAMES if name in known), None)
            if name is None or name not in known:
                asked = f'tensor "{tensor}"' if tensor is not None else f"tensor named {', '.join(NAMES)}"
                raise StoreError(f"{file} holds no {asked}, only {', '.join(known) or 'none'}: name the decoder's tensor")
            shape, dtype = list(opened.get_slice(name).get_shape()), opened.get_slice(name).get_dtype()
    except (safetensors.SafetensorError, OSError) as error:
        raise StoreError(f"{file} is not a whole safetensors file ({error}): copy it again") from None
    if len(shape) != 2 or columns not in shape or dtype not in _DTYPES:
        raise StoreError(
            f'{file}: tensor "{name}" is {dtype} {shape}, expected floats [features, {columns}]: take a dictionary of this model'
        )
    return name, shape, _DTYPES[dtype]


def _read(file: Path, name: str, shape: list[int], dtype: np.dtype) -> Float[np.ndarray, "rows columns"]:
    """A tensor in float32; NumPy has no bfloat16, which is the upper half of a float32."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        start = 8 + length + json.loads(opened.read(length))[name]["data_offsets"][0]
    if not all(shape):
        return np.empty(shape, np.float32)
    raw = np.memmap(file, dtype, "r", start, tuple(shape))
    return (raw.astype(np.uint32) << 16).view(np.float32) if dtype.kind == "u" else raw.astype(np.float32)


def _check_layer(file: Path, layer: int) -> None:
    beside = file.with_name("cfg.json")
    if not beside.is_file():
        return
    try:
        text = beside.read_text(encoding="utf-8")
        named = re.search(r'"hook_(?:name|layer|point)"\s*:\s*"?(?:blocks\.)?(\d+)', text)
    except (OSError, UnicodeDecodeError):
        return
    before = re.search(r'"hook_(?:name|point)"\s*:\s*"blocks\.\d+\.hook_resid_pre"', text)  # the output of the block before
    if named and (own := int(named[1]) - bool(before)) != layer:
        where = f"the input of layer {named[1]}, which is the output of layer {own}" if before else f"layer {own}"
        raise DataError(f"{beside} says {where}, the action was mined at layer {layer}: take a dictionary of that layer")
