"""Writing and reading the published layout: the memory folder of the published controller, and the library that it indexes.

    memory/keys.npy        [n, d] float32, rows of norm 1
    memory/entries.jsonl   one line per row: tool_name, entry_type ("wrong" steers, "right" is null), layer, control_point_m, quality,
                           vector_path, key_path, rewards and counts; ours add ``workbench``, which the controller ignores
    memory/meta.txt
    library/vectors/*.pt   raw actions      library/keys/*.pt   raw keys

Paths are relative to the folder, which must be the controller's working directory. The layout has no model identity, no gate, and no key
space but the cosine. Untrusted files are read without unpickling anything but numbers: ``weights_only``, uncompressed archives, small
sizes.
"""

import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stir_core.deploy.bundle.manifest import MAX_ENTRIES, MAX_WIDTH, EvaluationSummary, Provenance
from stir_core.deploy.bundle.reading import Bundle
from stir_core.deploy.bundle.untrusted import read_plain
from stir_core.deploy.bundle.writing import bundle_of
from stir_core.deploy.targets import INDEX, Recipe, file_names, index_bytes
from stir_core.errors import DeployError, first_line
from stir_core.keyspace import KeySpace
from stir_core.records import Entry
from stir_core.store.curated import Curated, Origin
from stir_core.store.runs import Library
from stir_core.version import VERSION

MAX_KEYS, MAX_ROWS, MAX_VECTOR = 1 << 30, 64 << 20, 2 << 20
"""Maximum size in bytes of keys.npy, of entries.jsonl, and of one vector."""
LOST = (
    "the model's identity: nothing says which weights the vectors belong to",
    "the gate's settings, prompt template and delimiter: they stand in the controller's own configuration",
    "names, tags and notes",
)
_AGAIN = "download or copy the folder again"
_VECTOR = re.compile(r"[\w-][\w.-]{0,120}\.pt", re.ASCII)


class Rest(BaseModel):
    """The fields of our entries that the published row lacks."""

    model_config = ConfigDict(extra="forbid")

    problem_id: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    pos_source: str
    reachable: bool
    key_norm: float | None = None
    action_norm: float | None = None


class PublishedEntry(BaseModel):
    """One line of ``memory/entries.jsonl``; fields that the controller does not read are ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    tool_name: str = Field(pattern=r"^[\w.:+-]{1,100}$")
    entry_type: str | None = None
    key_path: str | None = None
    vector_path: str | None = None
    layer: int = Field(ge=0)
    control_point_m: int = Field(ge=1)
    quality: float
    r_pos_mean: float = 0.0
    r_neg_mean: float = 0.0
    pair_id: int | None = None
    workbench: Rest | None = None


class Published(NamedTuple):
    """A library that was read from the published layout."""

    library: Library
    notes: tuple[str, ...]
    """Warnings: facts that the layout does not hold."""


def published_files(bundle: Bundle) -> dict[str, bytes]:
    """The files of the export, by path."""
    stems = file_names(entry.id for entry in bundle.entries)
    files: dict[str, bytes] = {}
    lines = []
    for i, entry in enumerate(bundle.entries):
        place = f"{stems[entry.id]}_L{entry.layer}_m{entry.m:02d}"
        corrective = entry.kind == "corrective"
        key_path = f"library/keys/{place}_{'wrong' if corrective else 'right'}.pt"
        vector_path = f"library/vectors/{place}_delta.pt" if corrective else None
        files[key_path] = _saved(bundle.keys[i])
        if vector_path:
            files[vector_path] = _saved(bundle.actions[i])
        lines.append(json.dumps(_row(i, entry, key_path, vector_path), ensure_ascii=False) + "\n")
    files |= {
        "memory/keys.npy": _npy(unit_keys(bundle.keys)),
        "memory/entries.jsonl": "".join(lines).encode("utf-8"),
        "memory/meta.txt": f"N={len(bundle.entries)} H={bundle.keys.shape[1]}\n".encode(),
    }
    return files | {INDEX: index_bytes("published layout", bundle, {"use": "run the controller from here", "lost": LOST}, files)}


def check_space(bundle: Bundle) -> None:
    """Refuse a key space that the layout cannot express.

    Raises:
        DeployError: keys are not compared by their plain cosine.
    """
    kind = bundle.manifest.stage3.similarity
    if kind != "cosine":
        raise DeployError(f"this library compares keys {kind}, the published controller knows the plain cosine only: export a bundle")


def is_published(folder: Path) -> bool:
    """True for a folder with a memory in the published layout."""
    return (folder / "memory" / "keys.npy").exists() or (folder / "keys.npy").exists()


def read_published(folder: Path) -> Published:
    """Read an untrusted library in the published layout, with raw keys if the folder has them, else with keys of norm 1.

    Raises:
        DeployError: one line naming the file and the remedy.
    """
    memory = folder / "memory" if (folder / "memory").is_dir() else folder
    root = memory.parent if memory.name == "memory" else memory
    keys = _keys(memory / "keys.npy")
    rows = _rows(memory / "entries.jsonl", len(keys))
    raw = np.array([_raw_key(root, row, keys[i]) for i, row in enumerate(rows)], np.float32)
    actions = np.zeros_like(raw)
    for i, row in enumerate(rows):
        if row.vector_path:
            actions[i] = _vector(root / "library" / "vectors", row.vector_path, keys.shape[1])
    names = [row.tool_name for row in rows]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DeployError(f"{memory / 'entries.jsonl'} names {twice} twice: {_AGAIN}")
    entries = tuple(_entry(i, row, raw[i], actions[i]) for i, row in enumerate(rows))
    return Published(Library(entries, raw, actions), _notes(rows, root))


def bundled(published: Published, folder: Path, like: Bundle) -> Bundle:
    """A published library as a bundle with the model and the Stage III settings of ``like``, which the user must choose rightly.

    Raises:
        DeployError: the library does not fit that model or those control points.
    """
    library, model, stage3 = published.library, like.manifest.model, like.manifest.stage3
    if library.keys.shape[1] != model.d_model:
        raise DeployError(
            f"{folder} has vectors of width {library.keys.shape[1]}, {model.name} has {model.d_model}: give --like its own model"
        )
    last = max(entry.layer for entry in library.entries)
    if last >= model.n_layers:
        raise DeployError(f"{folder} has actions of block {last}, {model.name} has {model.n_layers} blocks: give --like its own model")
    latest = max(entry.m for entry in library.entries)
    if latest > stage3.control_points:
        raise DeployError(f"{folder} has entries at control point {latest}, --like has {stage3.control_points}: name a run with as many")
    if not any(entry.kind == "corrective" for entry in library.entries):
        raise DeployError(f"{folder} holds null entries only, so there is no action to steer with: export a library that has actions")
    return bundle_of(
        folder,
        Curated(library, tuple(Origin(entry_id=entry.id) for entry in library.entries)),
        KeySpace("cosine", {}, {}),
        EvaluationSummary(evaluated=False, reason="imported from the published layout, which holds no evaluation"),
        base_model=like.manifest.base_model,
        base_revision=like.manifest.base_revision,
        model=model,
        stage3=stage3.replaced(similarity="cosine"),
        provenance=Provenance(
            run=folder.resolve().name,
            config_digest=like.manifest.provenance.config_digest,
            inputs={},
            library="published",
            only=None,
            curation_version=0,
            curation_digest=None,
            versions={"writer": f"stir-workbench {VERSION}"},
        ),
        notes=(
            *like.manifest.notes,
            *published.notes,
            f"model and settings are those of {like.manifest.provenance.run}, as named at the import and not checked",
        ),
    )


def unit_keys(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of norm 1, in float32 as the published code makes them."""
    return (rows / np.clip(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12, None)).astype(np.float32)


def _row(i: int, entry: Entry, key_path: str, vector_path: str | None) -> dict[str, Any]:
    return {
        "lib_id": i,
        "tool_id": i,
        "tool_name": entry.id,
        "entry_type": "wrong" if entry.kind == "corrective" else "right",
        "key_path": key_path,
        "vector_path": vector_path,
        "layer": entry.layer,
        "control_point_m": entry.m,
        "quality": entry.quality,
        "reward_gap": entry.reward_pos - entry.reward_neg,
        "r_pos_mean": entry.reward_pos,
        "r_neg_mean": entry.reward_neg,
        "n_pos": len(entry.positives),
        "n_neg": len(entry.negatives),
        "pair_id": entry.pair,
        "workbench": {field: getattr(entry, field) for field in Rest.model_fields},
    }


def _saved(row: Float[np.ndarray, "d"]) -> bytes:
    """A vector as a tensor file: a tensor, since ``weights_only`` refuses arrays."""
    import torch

    out = io.BytesIO()
    torch.save(torch.tensor(row, dtype=torch.float32), out)
    return out.getvalue()


def _npy(rows: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(rows, np.float32), allow_pickle=False)
    return out.getvalue()


def _keys(path: Path) -> Float[np.ndarray, "n d"]:
    data = read_plain(path, MAX_KEYS)
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream, max_header_size=10_000)
    except (ValueError, SyntaxError, TokenError, MemoryError, RecursionError) as error:  # NumPy parses the header as Python
        raise DeployError(f"{path} is not a plain array file ({first_line(error, 100)}): {_AGAIN}") from None
    if dtype.hasobject or dtype.kind != "f":
        raise DeployError(f"{path} holds {dtype}, not floating-point numbers; objects would be pickles: {_AGAIN}")
    if len(shape) != 2 or not 1 <= shape[0] <= MAX_ENTRIES or not 1 <= shape[1] <= MAX_WIDTH:
        raise DeployError(
            f"{path} has shape {list(shape)[:4]}, expected [n, d] with n up to {MAX_ENTRIES} and d up to {MAX_WIDTH}: {_AGAIN}"
        )
    if shape[0] * shape[1] * dtype.itemsize != len(data) - stream.tell():  # before it is allocated
        raise DeployError(f"{path} does not hold the {shape[0]} x {shape[1]} numbers that its header names, it was cut off: {_AGAIN}")
    keys = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
    if not np.isfinite(keys).all() or not np.allclose(np.linalg.norm(keys, axis=1), 1.0, atol=1e-3):
        raise DeployError(f"{path} holds rows that are not finite, or not of norm 1: {_AGAIN}")
    return keys


def _rows(path: Path, n: int) -> list[PublishedEntry]:
    try:
        lines = [line for line in read_plain(path, MAX_ROWS).decode("utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise DeployError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): {_AGAIN}") from None
    if len(lines) != n:
        raise DeployError(f"{path} has {len(lines):,} lines, keys.npy has {n:,} rows: {_AGAIN}")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(PublishedEntry.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "line"
            raise DeployError(f"{path} line {number} is not an entry ({field}: {first['msg']}): {_AGAIN}") from None
        if (rows[-1].entry_type == "wrong") != bool(rows[-1].vector_path) and rows[-1].entry_type is not None:
            raise DeployError(
                f'{path} line {number}: entry_type "{rows[-1].entry_type[:20]}" and vector_path contradict each other: {_AGAIN}'
            )
    return rows


def _raw_key(root: Path, row: PublishedEntry, unit: Float[np.ndarray, "d"]) -> Float[np.ndarray, "d"]:
    if not row.key_path or not (root / "library" / "keys").is_dir():
        return unit
    raw = _vector(root / "library" / "keys", row.key_path, len(unit))
    if not np.allclose(unit_keys(raw[None])[0], unit, atol=1e-4):
        raise DeployError(f"{root / 'library' / 'keys' / Path(row.key_path).name} is not the key that keys.npy holds: {_AGAIN}")
    return raw


def _vector(folder: Path, named: str, width: int) -> Float[np.ndarray, "d"]:
    """A vector file of the folder. Only the file name of ``named`` is used: paths are never followed."""
    name = re.split(r"[/\\]", named)[-1]
    if not _VECTOR.fullmatch(name):
        raise DeployError(f"{folder}: {named[-80:]!r} is not the name of a vector file (NAME.pt): {_AGAIN}")
    path = folder / name
    vector = _numbers(path, read_plain(path, MAX_VECTOR))
    if vector.shape != (width,) or not np.isfinite(vector).all():
        raise DeployError(f"{path} holds {list(vector.shape)} numbers or some that are not finite, expected {width}: {_AGAIN}")
    return vector


def _numbers(path: Path, data: bytes) -> np.ndarray:
    import torch
    from numpy._core.multiarray import _reconstruct  # a saved array names it, and the published code saves arrays
    from torch._weights_only_unpickler import UnpicklingError  # pyright: ignore[reportPrivateImportUsage]

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                raise DeployError(f"{path} is packed, which tensor files never are: {_AGAIN}")
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError):
        raise DeployError(
            f"{path} is not a tensor file (an old pickle, or cut off): {_AGAIN}, or save it again with a current torch"
        ) from None
    arrays: list[Any] = [(_reconstruct, "numpy.core.multiarray._reconstruct"), (_reconstruct, "numpy._core.multiarray._reconstruct")]
    arrays += [np.ndarray, np.dtype, type(np.dtype(np.float32))]
    try:
        with torch.serialization.safe_globals(arrays), warnings.catch_warnings(action="ignore"):
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, ValueError, EOFError, AttributeError, TypeError, KeyError, IndexError, MemoryError) as error:
        raise DeployError(f"{path} is not a plain tensor ({first_line(error, 120)}): nothing was run; {_AGAIN}") from None
    if isinstance(loaded, torch.Tensor):
        if loaded.numel() > len(data):  # an expanded tensor holds fewer numbers than it shows
            raise DeployError(f"{path} would unpack to {loaded.numel():,} numbers from {len(data):,} bytes: {_AGAIN}")
        odd = loaded.layout is not torch.strided or loaded.is_nested or loaded.is_meta or not loaded.is_floating_point()
        if odd:
            raise DeployError(f"{path} holds a {loaded.layout} tensor of {loaded.dtype} on {loaded.device}, not numbers: {_AGAIN}")
        loaded = loaded.detach().float().resolve_neg().numpy()  # numpy has no bfloat16
    if not isinstance(loaded, np.ndarray) or loaded.dtype.kind != "f" or loaded.size > len(data):
        raise DeployError(f"{path} holds {type(loaded).__name__}, not numbers: {_AGAIN}")
    return loaded.astype(np.float32).reshape(-1)


def _entry(i: int, row: PublishedEntry, key: Float[np.ndarray, "d"], action: Float[np.ndarray, "d"]) -> Entry:
    corrective = bool(row.vector_path)
    pair = row.pair_id if row.pair_id is not None else i
    rest = row.workbench or Rest(problem_id=f"published/{pair}", positives=(), negatives=(), pos_source="rollout", reachable=True)
    return Entry(
        id=row.tool_name,
        kind="corrective" if corrective else "null",
        pair=pair,
        problem_id=rest.problem_id,
        m=row.control_point_m,
        layer=row.layer,
        quality=row.quality,
        reward_pos=row.r_pos_mean,
        reward_neg=row.r_neg_mean,
        positives=rest.positives,
        negatives=rest.negatives,
        pos_source="gold" if rest.pos_source == "gold" else "rollout",
        key_row=i,
        action_row=i if corrective else None,
        key_norm=rest.key_norm or float(np.linalg.norm(key.astype(np.float64))),
        action_norm=(rest.action_norm or float(np.linalg.norm(action.astype(np.float64)))) if corrective else None,
        reachable=rest.reachable,
    )


def _notes(rows: list[PublishedEntry], root: Path) -> tuple[str, ...]:
    notes = []
    if any(row.workbench is None for row in rows):
        notes.append("imported from the published layout: problems and rollouts of the entries are not known")
    if not (root / "library" / "keys").is_dir():
        notes.append("imported from the published layout without raw keys: keys have norm 1")
    return tuple(notes)


RECIPE = Recipe(
    "Published layout",
    published_files,
    "keys and vectors",
    kept=("vectors, keys and null entries; retrieval by the plain cosine, gate and impulse are the published controller's own",),
    lost=LOST,
    check=check_space,
)
