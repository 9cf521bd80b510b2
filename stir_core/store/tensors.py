"""Tensors in safetensors files. Names, shapes, dtypes and finite values are checked when a file is read."""

import json
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy as st
from jaxtyping import Float

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


class MappedRows:
    """Rows of a ``[n, columns]`` tensor of floats in a safetensors file, read from the disk as they are asked for, however large the file.

    Args:
        rows: row i here is row ``rows[i]`` of the tensor, or zeros where that is ``None``.

    Raises:
        StoreError: missing or truncated file, missing name, wrong shape or dtype, or a row that the tensor does not have.
    """

    def __init__(self, path: Path, name: str, rows: Sequence[int | None], *, columns: int):
        self._where, self._columns = f'{path}: tensor "{name}"', columns
        try:
            with safetensors.safe_open(path, framework="numpy") as file:  # checks the whole header
                shape, dtype = file.get_slice(name).get_shape(), file.get_slice(name).get_dtype()
            if dtype not in _MAPPED or len(shape) != 2 or list(shape)[1] != columns:
                raise StoreError(f"{self._where} is {dtype} {shape}, expected floats [n, {columns}]: make the stage again")
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                start = 8 + length + json.loads(file.read(length))[name]["data_offsets"][0]
            self._tensor = np.memmap(path, _MAPPED[dtype], "r", start, (shape[0], columns)) if shape[0] else np.empty(shape, _MAPPED[dtype])
        except (safetensors.SafetensorError, OSError) as error:
            raise StoreError(f"{path} is not a whole safetensors file ({error}): make or copy it again") from None
        self._rows = np.array([-1 if row is None else row for row in rows], dtype=np.int64)
        if len(rows) and self._rows.max() >= shape[0]:
            raise StoreError(f"{self._where} has {shape[0]} rows, and row {self._rows.max()} is asked for: copy the run again")

    def __len__(self) -> int:
        return len(self._rows)

    def only(self, which: Sequence[int]) -> "MappedRows":
        """These rows, still in their file."""
        part = copy(self)
        part._rows = self._rows[which]
        return part

    def __getitem__(self, which: Sequence[int] | np.ndarray | slice) -> Float[np.ndarray, "n d"]:
        """A copy of these rows, and of nothing else.

        Raises:
            StoreError: one of them is not finite.
        """
        rows = self._rows[which]
        if (rows >= 0).all():
            found = np.array(self._tensor[rows])
        else:
            found = np.zeros((len(rows), self._columns), self._tensor.dtype)
            found[rows >= 0] = self._tensor[rows[rows >= 0]]
        if not np.isfinite(found).all():
            raise StoreError(f"{self._where} holds values that are not finite: make the file again")
        return found


_MAPPED = {"F32": np.float32, "F64": np.float64}


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors to ``path``, whole or not at all. The same tensors give the same bytes."""
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    write_whole(path, st.save(ordered))
