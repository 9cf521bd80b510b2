"""Tensors in safetensors files. Names, shapes, dtypes and finite values are checked when a file is read."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy as st

from stir_core.errors import StoreError
from stir_core.store.files import write_whole

MAX_BYTES = 8 << 30
"""A file larger than this is refused rather than read into memory."""


def read_tensors(path: Path, names: tuple[str, ...] = (), *, columns: int | None = None) -> dict[str, np.ndarray]:
    """Read the named float or integer tensors (all of them when ``names`` is empty).

    Args:
        columns: when given, every tensor read must be ``[n, columns]``.

    Raises:
        StoreError: missing, truncated or oversized file, missing name, wrong shape, or a value that is not finite.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder: give the safetensors file itself")
    if not path.is_file():
        raise StoreError(f"{path} does not exist: run the stage that makes it")
    if path.stat().st_size > MAX_BYTES:
        raise StoreError(
            f"{path} is {path.stat().st_size >> 20} MB, more than the {MAX_BYTES >> 20} MB that are read at once: mine fewer layers"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            known = list(file.keys())
            missing = [name for name in names if name not in known]
            if missing:
                raise StoreError(f'{path} holds no tensor "{missing[0]}", only {", ".join(known) or "none"}: make or copy it again')
            tensors = {name: file.get_tensor(name) for name in names or known}
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise StoreError(f"{path} is not a whole safetensors file ({error}): make or copy it again") from None
    for name, tensor in tensors.items():
        if columns is not None and (tensor.ndim != 2 or tensor.shape[1] != columns):
            raise StoreError(f'{path}: tensor "{name}" has shape {list(tensor.shape)}, expected [n, {columns}]: make the stage again')
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            raise StoreError(f'{path}: tensor "{name}" holds values that are not finite: make the file again')
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors to ``path``, whole or not at all. The same tensors give the same bytes."""
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    write_whole(path, st.save(ordered))
