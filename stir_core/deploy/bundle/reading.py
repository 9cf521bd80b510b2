"""The bundle: one folder that holds a curated library and all that is needed to steer with it, and nothing that runs.

    manifest.json         ``BundleManifest``: model identity, Stage III settings, provenance, SHA-256 and size of every file
    library.safetensors   keys, actions (float32, raw, row by row), and means and maps of the key space where it has any (float64)
    actions.parquet       entries in library order, with lineage and marks
    evaluation.json       what the run's evaluations measured, with intervals
    README.md             model card
    certificate-*.json    parity certificates, attached later

    bundle = read_bundle(folder)            # everything is checked before anything is used
    memory = bundle.memory()                # retrieves exactly as the run does
    session = bundle.session(model)         # steers exactly as the run does, on the model that it was made with

What a bundle promises: with its library, its ``StageThree`` and the model whose hashes it names, every decision of the gate comes out
as in the run. What is checked, and when:

- the manifest by itself (version, bounds, counts, names), before any other file is opened;
- the folder: nothing in it but the files that the manifest names, no links, no pickles;
- each file's size and SHA-256, on the very bytes that are then parsed: a file is read once;
- the safetensors and Parquet headers, against what the manifest says, before anything is allocated;
- each entry against its tensors (norms, rows, layer, control point), and that all numbers are finite;
- the model, by hash, when a session or a runtime is made (``BundleManifest.check_model``).

Reading needs no model and no torch. A bundle is not a run: it has no problems, rollouts or states.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ValidationError

from stir_core.deploy.bundle.manifest import (
    ACTIONS,
    EVALUATION,
    LIBRARY,
    MANIFEST,
    MAX_LAYERS,
    MAX_WIDTH,
    PARTS,
    SCHEMA,
    BundleManifest,
    EvaluationSummary,
    FileFact,
)
from stir_core.deploy.bundle.table import table_rows
from stir_core.deploy.bundle.untrusted import AGAIN, check_bytes, check_folder, read_plain, tensors_of
from stir_core.errors import DeployError
from stir_core.keyspace import KeySpace
from stir_core.records import Entry
from stir_core.store.curated import Origin
from stir_core.store.runs import Library

if TYPE_CHECKING:
    from stir_core.intervene.memory import Memory
    from stir_core.intervene.session import Session
    from stir_core.models.loading import LoadedModel

MAX_MANIFEST, MAX_LIBRARY, MAX_TEXT = 4 << 20, 2 << 30, 4 << 20
"""Most bytes of the manifest, of the library, and of every other file."""
CERTIFICATE = re.compile(r"certificate-[a-z0-9-]{1,40}\.json")


class Bundle(NamedTuple):
    """A whole bundle: read from its folder, or made in memory (:func:`stir_core.deploy.bundle.writing.bundle_of`)."""

    folder: Path
    """Where it lies; of one that was only made, what it was made from."""
    manifest: BundleManifest
    library: Library
    origins: tuple[Origin, ...]
    """Row by row: display names, tags, notes and lineage."""
    space: KeySpace
    evaluation: EvaluationSummary

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Entries in library order; ``key_row`` and ``action_row`` are rows of this bundle's tensors."""
        return self.library.entries

    @property
    def keys(self) -> Float[np.ndarray, "n_entries d_model"]:
        """Raw keys."""
        return self.library.keys

    @property
    def actions(self) -> Float[np.ndarray, "n_entries d_model"]:
        """Raw actions; zero for null entries."""
        return self.library.actions

    def memory(self) -> "Memory":
        """Retrieval over the library, in the key space that the run fitted (imports torch)."""
        from stir_core.intervene.memory import Memory

        return Memory(*self.library, self.space)

    def session(self, model: "LoadedModel") -> "Session":
        """The session that its run would give, without the run (imports torch).

        Raises:
            MismatchError: the bundle was made with another model.
        """
        from stir_core.intervene.session import Session

        self.manifest.check_model(model.identity)
        return Session(self.manifest.run_config(), model, self.memory())


class _Version(BaseModel):
    """The two fields that are read before all others."""

    format: str
    schema_version: int


def is_bundle(folder: Path) -> bool:
    """True where a bundle's manifest lies; whether it is whole is for :func:`read_bundle` to say."""
    return (folder / MANIFEST).is_file() and (folder / LIBRARY).exists() and not (folder / "run.json").exists()


def read_manifest(folder: Path) -> BundleManifest:
    """Read ``manifest.json`` and check that it makes sense by itself.

    Raises:
        DeployError: missing, malformed, of another schema version, or with counts that cannot be.
    """
    if not folder.is_dir():
        raise DeployError(f"there is no bundle at {folder}: make one with `stir export RUN --to bundle --out {folder}`")
    file = folder / MANIFEST
    data = read_plain(file, MAX_MANIFEST)
    try:
        said = _Version.model_validate_json(data)
        if said.format != "stir-bundle":
            raise DeployError(f"{file} says format {said.format[:40]!r}, not 'stir-bundle': this folder is something else")
        if said.schema_version != SCHEMA:
            newer = "update stir-workbench" if said.schema_version > SCHEMA else "export the run again"
            raise DeployError(f"{file} has schema version {said.schema_version}, this reads version {SCHEMA}: {newer}")
        manifest = BundleManifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])[:80] or "the file"
        raise DeployError(f"{file} is not a bundle's manifest ({field}: {first['msg']}): {AGAIN}") from None
    _check_manifest(file, manifest)
    return manifest


def read_bundle(folder: str | Path) -> Bundle:
    """Read an exported bundle; every file is checked against its manifest, and every entry against its tensors, before anything is used.

    Needs no model.

    Args:
        folder: what :func:`stir_core.export_library` or `stir export` wrote.

    Returns:
        The bundle: ``entries``, raw ``keys`` and ``actions`` ``[n_entries, d_model]``, manifest, lineage and measured effect.

    Raises:
        DeployError: one line naming the file and the remedy.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_folder(folder, (*manifest.files, MANIFEST))
    data = {name: _promised(folder / name, manifest.files[name]) for name in manifest.files}
    wanted = {name: (fact.dtype, fact.shape) for name, fact in manifest.tensors.items()}
    tensors = tensors_of(folder / LIBRARY, data[LIBRARY], wanted)
    entries, origins = table_rows(folder / ACTIONS, data[ACTIONS], manifest.n_entries)
    library = Library(entries, tensors["keys"], tensors["actions"])
    check_library(folder / ACTIONS, manifest, library)
    try:
        evaluation = EvaluationSummary.model_validate_json(data[EVALUATION])
    except ValidationError as error:
        raise DeployError(f"{folder / EVALUATION} is not a summary ({error.errors()[0]['msg']}): {AGAIN}") from None
    return Bundle(folder, manifest, library, origins, _space(manifest, tensors), evaluation)


def check_library(place: Path, manifest: BundleManifest, library: Library) -> None:
    """Refuse entries that contradict each other, their tensors or the manifest.

    Raises:
        DeployError: naming the entry.
    """
    key_norms, action_norms = (np.linalg.norm(rows.astype(np.float64), axis=1) for rows in (library.keys, library.actions))
    seen: set[str] = set()
    for i, entry in enumerate(library.entries):
        corrective = entry.kind == "corrective"
        numbers = (entry.quality, entry.reward_pos, entry.reward_neg, entry.key_norm, entry.action_norm or 0.0)
        wrong = {
            "its id is there twice": entry.id in seen,
            "its id is no name": not re.fullmatch(r"[\w.:+-]{1,100}", entry.id),
            f"layer {entry.layer} is none of the manifest's": entry.layer not in manifest.layers,
            f"control point {entry.m} is none of the manifest's": not 1 <= entry.m <= manifest.stage3.control_points,
            "a number of it is not finite": not np.isfinite(numbers).all(),
            "it names other rows": (entry.key_row, entry.action_row) != (i, i if corrective else None),
            "its key has another norm": not np.isclose(key_norms[i], entry.key_norm, rtol=1e-3),
            "its action has another norm": not np.isclose(action_norms[i], entry.action_norm or 0.0, rtol=1e-3),
            "it is corrective without an action": corrective and not action_norms[i],
        }
        if said := next((what for what, found in wrong.items() if found), None):
            raise DeployError(f"{place}: entry {entry.id[:40]!r} (row {i}) contradicts itself, {said}: {AGAIN}")
        seen.add(entry.id)
    n_actions = sum(entry.kind == "corrective" for entry in library.entries)
    if n_actions != manifest.n_actions:
        raise DeployError(f"{place} holds {n_actions} corrective entries, its manifest says {manifest.n_actions}: {AGAIN}")


def _promised(path: Path, fact: FileFact) -> bytes:
    limit = MAX_LIBRARY if path.name == LIBRARY else MAX_TEXT if path.name != ACTIONS else 64 << 20
    data = read_plain(path, limit)
    check_bytes(path, data, fact.sha256, fact.size)
    return data


def _check_manifest(file: Path, manifest: BundleManifest) -> None:
    model, layers, n = manifest.model, manifest.layers, manifest.n_entries
    odd = [name[:60] for name in manifest.files if name not in PARTS and not CERTIFICATE.fullmatch(name)]
    gone = [name for name in PARTS if name not in manifest.files]
    inside = len(set(layers)) == len(layers) and all(0 <= layer < model.n_layers for layer in layers)
    tensors = {name: (fact.dtype, fact.shape) for name, fact in manifest.tensors.items()}
    wrong = {
        f"no bundle has a file {odd[:1]}": bool(odd),
        f"it names no {gone[:1]}": bool(gone),
        f"d_model {model.d_model} cannot be": not 1 <= model.d_model <= MAX_WIDTH,
        f"n_layers {model.n_layers} cannot be": not 1 <= model.n_layers <= MAX_LAYERS,
        f"hook {model.hook[:40]!r} is none that is steered at": model.hook != "blocks.{layer}.hook_out",
        f"layers {layers[:8]} are not in a model of {model.n_layers} blocks": not layers or not inside,
        f"{manifest.n_actions} of {n} entries cannot be corrective": manifest.n_actions > n,
        "its tensors are not those of its counts and key space": tensors != _expected(manifest),
    }
    if said := next((what for what, found in wrong.items() if found), None):
        raise DeployError(f"{file} contradicts itself, {said}: {AGAIN}")


def _expected(manifest: BundleManifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors that such a bundle has; a layer that the key space was not fitted to has no mean (see ``keyspace``)."""
    width, kind = manifest.model.d_model, manifest.stage3.similarity
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {name: ("F32", (manifest.n_entries, width)) for name in ("actions", "keys")}
    for layer in manifest.layers:
        if kind != "cosine" and f"mean.{layer}" in manifest.tensors:
            tensors[f"mean.{layer}"] = ("F64", (width,))
            if kind == "whitened":
                tensors[f"map.{layer}"] = ("F64", (width, width))
    return tensors


def _space(manifest: BundleManifest, tensors: Mapping[str, np.ndarray]) -> KeySpace:
    def by_layer(name: str) -> dict[int, np.ndarray]:
        return {layer: tensors[f"{name}.{layer}"] for layer in manifest.layers if f"{name}.{layer}" in tensors}

    return KeySpace(manifest.stage3.similarity, by_layer("mean"), by_layer("map"))
