"""The bundle: one folder with a library and everything needed to steer with it. It holds data only, no code.

    manifest.json         ``BundleManifest``: model identity, Stage III settings, provenance, SHA-256 and size of every file
    library.safetensors   keys, actions (float32, raw, row by row), and means and maps of the key space where it has any (float64)
    actions.parquet       entries in library order, with lineage and marks
    evaluation.json       the results of the run's evaluations, with intervals
    README.md             model card
    certificate-*.json    parity certificates, attached later

    bundle = read_bundle(folder)            # every file is checked before it is used
    memory = bundle.memory()                # retrieves exactly as the run does
    session = bundle.session(model)         # steers exactly as the run does, on the same model

The invariant: with the bundle's library, its ``StageThree`` and the model with its hashes, every decision of the gate is the same as in the
run. The checks, in order:

- the manifest by itself (version, bounds, counts, names), before any other file is opened;
- the folder: only files that the manifest names, no links, no pickles;
- each file's size and SHA-256, on the same bytes that are then parsed: a file is read once;
- the safetensors and Parquet headers, against the manifest, before anything is allocated;
- each entry against its tensors (norms, rows, layer, control point), and that all numbers are finite;
- the model, by hash, when a session or a runtime is made (``BundleManifest.check_model``).

Reading needs no model and no torch. A bundle is not a run: it has no problems, rollouts or states.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ValidationError

from stir_core.config import BasisConfig, MiningConfig, ModelConfig, RunConfig, section_from
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
    tensor_name,
)
from stir_core.deploy.bundle.table import table_rows
from stir_core.deploy.bundle.untrusted import AGAIN, check_bytes, check_folder, read_plain, tensors_of
from stir_core.errors import DeployError
from stir_core.keyspace import KeySpace, Place, fitted_place
from stir_core.records import Entry
from stir_core.store.curated import Origin
from stir_core.store.runs import Library, Run

if TYPE_CHECKING:
    from stir_core.intervene.memory import Memory
    from stir_core.intervene.session import Session
    from stir_core.models.loading import LoadedModel

MAX_MANIFEST, MAX_LIBRARY, MAX_TEXT = 4 << 20, 2 << 30, 4 << 20
"""Maximum size in bytes of the manifest, of the library, and of each text file."""
CERTIFICATE = re.compile(r"certificate-[a-z0-9-]{1,40}\.json")


class Bundle(NamedTuple):
    """A whole bundle: read from its folder, or made in memory (:func:`stir_core.deploy.bundle.writing.bundle_of`)."""

    folder: Path
    """The bundle's folder; of a bundle in memory, the folder that it was made from."""
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

    def corrective(self) -> list[tuple[int, Entry]]:
        """The corrective entries, each with its row."""
        return [(i, entry) for i, entry in enumerate(self.entries) if entry.kind == "corrective"]

    @property
    def keys(self) -> Float[np.ndarray, "n_entries d_model"]:
        """Raw keys."""
        return self.library.keys

    @property
    def actions(self) -> Float[np.ndarray, "n_entries d_model"]:
        """Raw actions; zero for null entries."""
        return self.library.actions

    @property
    def config(self) -> RunConfig:
        """The settings of Stage III as a run's config. Settings of mining and selection are not known and have their defaults."""
        manifest, stage3 = self.manifest, self.manifest.stage3
        return RunConfig(
            seed=stage3.seed,
            delimiter=stage3.delimiter,
            compat=stage3.compat,
            model=section_from(
                ModelConfig,
                {key: getattr(manifest.model, key) for key in ("name", "dtype", "template_args", "think_tags")},
            ),
            task=stage3.task,
            mining=MiningConfig(control_points=stage3.control_points, layers=manifest.layers, phase=stage3.phase),
            basis=BasisConfig(similarity=stage3.similarity),
            gate=stage3.gate,
            decode=stage3.decode,
        )

    def memory(self) -> "Memory":
        """Retrieval over the library, in the run's key space (imports torch)."""
        from stir_core.intervene.memory import Memory

        return Memory(*self.library, self.space, self.manifest.stage3.margins)

    def session(self, model: "LoadedModel") -> "Session":
        """A session that steers as its run's session does (imports torch).

        Raises:
            MismatchError: the bundle was made with another model.
        """
        from stir_core.intervene.session import Session

        self.manifest.check_model(model.identity)
        return Session(self.config, model, self.memory())


class _Version(BaseModel):
    """The fields that are read first, since other versions may have other fields."""

    format: str
    schema_version: int


def is_bundle(folder: Path) -> bool:
    """True for a folder with a bundle's manifest and library; :func:`read_bundle` checks whether it is whole."""
    return (folder / MANIFEST).is_file() and (folder / LIBRARY).exists() and not (folder / "run.json").exists()


def bundle_names(folder: Path) -> set[str] | None:
    """The files of a bundle's folder that an export or a certificate wrote; ``None`` for a folder that is no bundle."""
    if not is_bundle(folder):
        return None
    return {MANIFEST, *PARTS, *(file.name for file in folder.iterdir() if CERTIFICATE.fullmatch(file.name))}


def open_source(where: "Run | Bundle | str | Path") -> "Run | Bundle":
    """The run or the bundle in a folder, or the embedded run of that name. A run or bundle that is open already is returned as it is.

    Raises:
        DeployError, StoreError: neither a whole bundle nor a run.
    """
    if isinstance(where, Run | Bundle):
        return where
    return read_bundle(where) if isinstance(where, str | Path) and is_bundle(Path(where)) else Run.open(where)


def session_on(source: "Run | Bundle", model: "LoadedModel", library: Library | None = None) -> "Session":
    """A session with the library of a run or a bundle (imports torch).

    Args:
        library: entries of a run to steer with instead of its control basis.

    Raises:
        MismatchError: the run or bundle was made with another model.
        StoreError: the run has no finished basis, or its files are damaged.
    """
    from stir_core.intervene.session import open_session

    return open_session(source, model, library) if isinstance(source, Run) else source.session(model)


def read_manifest(folder: Path) -> BundleManifest:
    """Read ``manifest.json`` and check that it does not contradict itself.

    Raises:
        DeployError: missing, malformed, of another schema version, or with impossible counts.
    """
    if folder.is_file():
        raise DeployError(f"{folder} is a file, not a bundle's folder: unpack it first, or name the folder that it is in")
    if not folder.is_dir():
        raise DeployError(f"there is no bundle at {folder}: make one with `stir export RUN --to bundle --out {folder}`")
    if (folder / "run.json").is_file():
        raise DeployError(f"{folder} is a run, not a bundle: make one with `stir export {folder} --to bundle --out DIR`")
    file = folder / MANIFEST
    data = read_plain(file, MAX_MANIFEST)
    try:
        version = _Version.model_validate_json(data)
        if version.format != "stir-bundle":
            raise DeployError(f"{file} has format {version.format[:40]!r}, not 'stir-bundle': name a folder that `stir export` made")
        if version.schema_version != SCHEMA:
            remedy = "update stir-workbench" if version.schema_version > SCHEMA else "export the run again"
            raise DeployError(f"{file} has schema version {version.schema_version}, this program reads version {SCHEMA}: {remedy}")
        manifest = BundleManifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])[:80] or "the file"
        raise DeployError(f"{file} is not a bundle's manifest ({field}: {first['msg']}): {AGAIN}") from None
    _check_manifest(file, manifest)
    return manifest


def read_bundle(folder: str | Path) -> Bundle:
    """Read an exported bundle. Every file is checked against the manifest, and every entry against its tensors. Needs no model.

    Args:
        folder: a folder written by :func:`stir_core.export_library` or `stir export`.

    Returns:
        The bundle: ``entries``, raw ``keys`` and ``actions`` ``[n_entries, d_model]``, manifest, lineage and measured effect.

    Raises:
        DeployError: one line naming the file and the remedy.
    """
    if not isinstance(folder, str | Path):
        raise DeployError(f"{folder!r:.80} is not the place of a bundle: give its folder")
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_folder(folder, (*manifest.files, MANIFEST), CERTIFICATE)  # one that was being added when its process was killed is not listed
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
            "its id occurs twice": entry.id in seen,
            "its id is not a name": not re.fullmatch(r"[\w.:+-]{1,100}", entry.id),
            f"layer {entry.layer} is not one of the manifest's": entry.layer not in manifest.layers,
            f"control point {entry.m} is not one of the manifest's": not 1 <= entry.m <= manifest.stage3.control_points,
            "a number of it is not finite": not np.isfinite(numbers).all(),
            "it names other rows": (entry.key_row, entry.action_row) != (i, i if corrective else None),
            "its key has another norm": not np.isclose(key_norms[i], entry.key_norm, rtol=1e-3),
            "its action has another norm": not np.isclose(action_norms[i], entry.action_norm or 0.0, rtol=1e-3),
            "it is corrective without an action": corrective and not action_norms[i],
        }
        if reason := next((what for what, is_wrong in wrong.items() if is_wrong), None):
            raise DeployError(f"{place}: entry {entry.id[:40]!r} (row {i}) contradicts itself, {reason}: {AGAIN}")
        seen.add(entry.id)
    n_actions = sum(entry.kind == "corrective" for entry in library.entries)
    if n_actions != manifest.n_actions:
        raise DeployError(f"{place} holds {n_actions} corrective entries, its manifest says {manifest.n_actions}: {AGAIN}")


def _promised(path: Path, fact: FileFact) -> bytes:
    data = read_plain(path, {LIBRARY: MAX_LIBRARY, ACTIONS: 64 << 20}.get(path.name, MAX_TEXT))
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
        f"d_model {model.d_model} is out of range": not 1 <= model.d_model <= MAX_WIDTH,
        f"n_layers {model.n_layers} is out of range": not 1 <= model.n_layers <= MAX_LAYERS,
        f"hook {model.hook[:40]!r} cannot be steered": model.hook != "blocks.{layer}.hook_out",
        f"layers {layers[:8]} are not in a model of {model.n_layers} blocks": not layers or not inside,
        f"{manifest.n_actions} of {n} entries cannot be corrective": manifest.n_actions > n,
        "its tensors are not those of its counts and key space": tensors != _expected(manifest),
    }
    if reason := next((what for what, is_wrong in wrong.items() if is_wrong), None):
        raise DeployError(f"{file} contradicts itself, {reason}: {AGAIN}")


def _places(manifest: BundleManifest) -> list[Place]:
    """Places that a space over the bundle's layers and control points may have a fit for."""
    points = range(1, manifest.stage3.control_points + 1)
    return sorted({fitted_place(manifest.stage3.similarity, (m, layer)) for m in points for layer in manifest.layers})


def _expected(manifest: BundleManifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a bundle with this manifest. A place that the key space was not fitted to has no mean (see ``keyspace``)."""
    width, kind = manifest.model.d_model, manifest.stage3.similarity
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {name: ("F32", (manifest.n_entries, width)) for name in ("actions", "keys")}
    for place in _places(manifest):
        if kind != "cosine" and tensor_name("mean", place) in manifest.tensors:
            tensors[tensor_name("mean", place)] = ("F64", (width,))
            if kind == "whitened":
                tensors[tensor_name("map", place)] = ("F64", (width, width))
    return tensors


def _space(manifest: BundleManifest, tensors: Mapping[str, np.ndarray]) -> KeySpace:
    def by_place(kind: Literal["mean", "map"]) -> dict[Place, np.ndarray]:
        names = {place: tensor_name(kind, place) for place in _places(manifest)}
        return {place: tensors[name] for place, name in names.items() if name in tensors}

    return KeySpace(manifest.stage3.similarity, by_place("mean"), by_place("map"))
