"""Reading an untrusted folder: names, kinds, sizes and headers are checked before a file is used or memory is allocated.

Nothing here unpickles. A file is read once, and the bytes that were hashed are the bytes that are parsed.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy as st
from safetensors import SafetensorError

from stir_core.errors import DeployError
from stir_core.store.files import is_temporary

NAME = re.compile(r"[\w-][\w.-]{0,120}", re.ASCII)
"""File names that a bundle may have: no folder, no leading dot, no character that is special in a shell or a URL."""
IGNORED = (".git", ".gitattributes", ".cache")
"""Files of hubs and version control; never opened."""
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".npz")
MAX_HEADER = 1 << 20
"""Maximum size in bytes of a safetensors header; a bundle's has a few hundred."""
AGAIN = "download or copy the bundle again"


def check_name(name: str, folder: Path) -> str:
    """The name, if it is a plain file name.

    Raises:
        DeployError: it leads out of the folder, has special characters, or may be a pickle.
    """
    if not NAME.fullmatch(name):
        raise DeployError(f"{folder}: {name[:80]!r} is not a plain file name (letters, digits, dot, dash, underscore): {AGAIN}")
    if name.lower().endswith(PICKLES):
        raise DeployError(f"{folder / name} may hold a pickle, which can run code when it is read: {AGAIN}, without that file")
    return name


def check_folder(folder: Path, known: Collection[str], passed_over: re.Pattern[str]) -> None:
    """Refuse a folder with missing or unknown files, with symbolic links, or with unsafe names.

    Args:
        passed_over: names of files that may be there unknown, and are not opened then; temporary ones of a killed writer may be, too.

    Raises:
        DeployError: naming the file.
    """
    for name in known:
        check_name(name, folder)
    for place in sorted(folder.iterdir()):
        if place.name in IGNORED or is_temporary(place.name):
            continue
        if place.is_symlink():
            raise DeployError(f"{place} is a symbolic link, which may lead anywhere: replace it with the file, or {AGAIN}")
        check_name(place.name, folder)
        if place.name not in known and not passed_over.fullmatch(place.name):
            raise DeployError(f"{place} is not named in the manifest: remove it, or {AGAIN}")
    missing = sorted(name for name in known if not (folder / name).exists())
    if missing:
        raise DeployError(f"{folder / missing[0]} is missing: {AGAIN}")


def read_plain(path: Path, limit: int) -> bytes:
    """All bytes of a plain file, at most ``limit`` of them; links are not followed.

    Raises:
        DeployError: missing, not a plain file, or too large.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise DeployError(f"{path} is missing: {AGAIN}") from None
    except OSError as error:
        raise DeployError(f"{path} is not a file that can be read ({error.strerror}): links are not followed; {AGAIN}") from None
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > limit:
        os.close(handle)
        too_large = f"has {facts.st_size:,} bytes, more than the {limit:,} that are read"
        raise DeployError(f"{path} {too_large if stat.S_ISREG(facts.st_mode) else 'is not a plain file'}: {AGAIN}")
    with os.fdopen(handle, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DeployError(f"{path} grew while it was read: {AGAIN}")
    return data


def check_bytes(path: Path, data: bytes, sha256: str, size: int) -> None:
    """Refuse bytes with another size or hash.

    Raises:
        DeployError: naming the file.
    """
    if len(data) != size:
        raise DeployError(f"{path} has {len(data):,} bytes, its manifest says {size:,}: it was cut off or changed; {AGAIN}")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DeployError(f"{path} is not the file that its manifest names (SHA-256 differs): {AGAIN}")


def tensors_of(path: Path, data: bytes, wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file whose header must list exactly the ``wanted`` (dtype, shape) by name; all values must be finite.

    Raises:
        DeployError: the header is oversized, malformed or different, or a value is not finite.
    """
    header = _header(path, data)
    _check_header(path, header, wanted)
    try:
        tensors = st.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DeployError(f"{path} is not a whole safetensors file ({error}): {AGAIN}") from None
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise DeployError(f'{path}: tensor "{name}" holds values that are not finite: {AGAIN}')
    return tensors


def _header(path: Path, data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8):
        what = "a pickle or an archive" if data[:1] == b"\x80" or data[:2] == b"PK" else f"its header would have {length:,} bytes"
        raise DeployError(f"{path} is not a safetensors file ({what}): {AGAIN}")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        raise DeployError(f"{path} is not a safetensors file (its header is not JSON): {AGAIN}") from None
    if not isinstance(header, dict):
        raise DeployError(f"{path} is not a safetensors file (its header is not a mapping): {AGAIN}")
    header.pop("__metadata__", None)
    return header


def _check_header(path: Path, header: dict[str, Any], wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    if set(header) != set(wanted):
        odd = sorted(set(header) ^ set(wanted))[0]
        raise DeployError(f'{path}: tensor "{odd[:40]}" is {"not expected" if odd in header else "missing"}: {AGAIN}')
    for name, (dtype, shape) in wanted.items():
        entry = header[name] if isinstance(header[name], dict) else {}
        if entry.get("dtype") != dtype or entry.get("shape") != list(shape):
            actual = f"{entry.get('dtype')} {entry.get('shape')}"
            raise DeployError(f'{path}: tensor "{name}" is {actual[:80]}, expected {dtype} {list(shape)}: {AGAIN}')
