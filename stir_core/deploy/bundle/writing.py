"""Making a bundle in memory, and writing it whole or not at all, never over other files.

:func:`bundle_of` makes the bundle with its manifest and the hashes of its files, and every target is written from that object. Its files
are a pure function of it (:func:`bundle_files`), so equal bundles give equal bytes. A folder is written beside its final place, flushed,
and renamed; it replaces only a folder of the same kind that holds no other files.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import safetensors.numpy as st

from stir_core.deploy.bundle.card import card_text
from stir_core.deploy.bundle.manifest import (
    ACTIONS,
    CARD,
    EVALUATION,
    LIBRARY,
    MANIFEST,
    BundleManifest,
    EvaluationSummary,
    FileFact,
    Norms,
    Spread,
    TensorFact,
    tensor_name,
)
from stir_core.deploy.bundle.reading import CERTIFICATE, MAX_TEXT, Bundle, bundle_names, check_library, read_bundle
from stir_core.deploy.bundle.table import table_bytes
from stir_core.errors import DeployError
from stir_core.keyspace import KeySpace, fitted_place
from stir_core.store.curated import Curated
from stir_core.store.files import first_stranger, name_folder, write_whole
from stir_core.store.locks import PATIENCE, folder_beside, one_writer
from stir_core.store.runs import Library

T = TypeVar("T")
_KINDS: dict[str, Literal["F32", "F64"]] = {"float32": "F32", "float64": "F64"}


def bundle_of(folder: Path, chosen: Curated, space: KeySpace, evaluation: EvaluationSummary, **facts: Any) -> Bundle:
    """A bundle in memory, checked like one that was read.

    Args:
        folder: the folder that it is made from.
        chosen: entries and vectors with their lineage; entries are renumbered.
        space: the run's key space; places without entries are left out.
        facts: the other fields of the manifest: model, settings, provenance, notes.

    Raises:
        DeployError: entries that contradict each other, their vectors or the manifest.
    """
    entries = tuple(
        entry.replaced(key_row=i, action_row=i if entry.kind == "corrective" else None) for i, entry in enumerate(chosen.library.entries)
    )
    library = Library(entries, chosen.library.keys.astype(np.float32), chosen.library.actions.astype(np.float32))
    layers = tuple(sorted({entry.layer for entry in entries}))
    places = sorted({fitted_place(space.kind, (entry.m, entry.layer)) for entry in entries})
    means, maps = ({place: own[place].astype(np.float64) for place in places if place in own} for own in (space.means, space.maps))
    space = KeySpace(space.kind, means, maps)
    corrective = [i for i, entry in enumerate(entries) if entry.kind == "corrective"]
    manifest = BundleManifest(
        layers=layers,
        n_entries=len(entries),
        n_actions=len(corrective),
        norms=Norms(keys=_spread(library.keys), actions=_spread(library.actions[corrective])),
        tensors={name: TensorFact(dtype=_KINDS[str(rows.dtype)], shape=rows.shape) for name, rows in _tensors(library, space).items()},
        files={},
        **facts,
    )
    check_library(folder / ACTIONS, manifest, library)
    bundle = Bundle(folder, manifest, library, chosen.origins, space, evaluation)
    files = {name: fact_of(data) for name, data in sorted(_parts(bundle).items())}
    return bundle._replace(manifest=manifest.replaced(files=files))


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    """Every file of a bundle by name, without certificates, which are attached to a folder. Equal bundles give equal bytes."""
    return _parts(bundle) | {MANIFEST: manifest_bytes(bundle.manifest)}


def save_bundle(folder: Path, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle's files whole or not at all. An older bundle is replaced, other files are not.

    Returns:
        The bundle as read from the written files.

    Raises:
        DeployError: the folder holds other files, or cannot be written.
    """
    # Written bytes are read again here on purpose: the folder gets its name only if the ordinary reader accepts it.
    return write_folder(folder, files, "a bundle", bundle_names, read_bundle)._replace(folder=folder)


def attach(folder: Path, name: str, data: bytes) -> BundleManifest:
    """Add a certificate to a whole bundle, or replace the one of the same name; the library stays as it is.

    Raises:
        DeployError: not a certificate's name, or the bundle is not whole.
    """
    if not CERTIFICATE.fullmatch(name):
        raise DeployError(f"{name[:80]!r} is not a certificate's name: use certificate-TARGET.json")
    if len(data) > MAX_TEXT:
        raise DeployError(f"{name} has {len(data):,} bytes, more than the {MAX_TEXT:,} that are read: certify fewer prompts")
    with one_writer(folder, owns=(folder,), patience=PATIENCE, kind=DeployError):
        bundle = read_bundle(folder)  # read again, since the folder may have changed during the minutes of certifying
        others = {each: fact for each, fact in bundle.manifest.files.items() if each != name}
        manifest = bundle.manifest.replaced(files={**others, name: fact_of(data)})
        if name in bundle.manifest.files:  # first unlisted, so that the bundle is whole after a kill at any moment
            write_whole(folder / MANIFEST, manifest_bytes(bundle.manifest.replaced(files=others)))
        write_whole(folder / name, data)  # before the manifest: what it names is there
        write_whole(folder / MANIFEST, manifest_bytes(manifest))
    return manifest


def check_place(folder: Path, kind: str = "a bundle", ours: Callable[[Path], Collection[str] | None] = bundle_names) -> None:
    """Refuse a place that is neither free, nor an empty folder, nor a folder of the same kind with no other files in it.

    Args:
        kind, ours: the name of the kind of folder that may be replaced, and the files in one that this program wrote, by path within it
            (``None``: not of that kind).

    Raises:
        DeployError: naming the folder and the remedy.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DeployError(f"{folder} is not a folder: choose another --out")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if (known := ours(folder)) is None:
        raise DeployError(f"{folder} holds other files than {kind}'s: choose another --out, nothing there is overwritten")
    if (stranger := first_stranger(folder, known)) is not None:
        name = stranger.relative_to(folder).as_posix()
        raise DeployError(f"{folder} holds {name!r}, which is not {kind}'s: move it away or choose another --out")


def write_folder(
    folder: Path,
    files: Mapping[str, bytes],
    kind: str,
    ours: Callable[[Path], Collection[str] | None],
    check: Callable[[Path], T],
) -> T:
    """Write files (names may have folders) whole or not at all.

    Args:
        kind, ours: what may be replaced, as for :func:`check_place`.
        check: reads the written folder before it gets its name; its result is returned.

    Raises:
        DeployError: the folder holds other files, or cannot be written.
    """
    check_place(folder, kind, ours)
    folder = folder.absolute()
    try:
        # under a new name beside it: a folder that exists already, even one called `<name>.part`, may hold the user's files
        with folder_beside(folder, DeployError) as work:
            part = work / folder.name
            for name, data in files.items():
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                write_whole(part / name, data)
            checked = check(part)
            check_place(folder, kind, ours)  # again: another writer may have been waited for
            name_folder(part, folder)
    except OSError as error:
        raise DeployError(f"{folder} cannot be written ({error.strerror}): choose another --out, or free the disk") from None
    return checked


def fact_of(data: bytes) -> FileFact:
    """The hash and size of a file."""
    return FileFact(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def manifest_bytes(manifest: BundleManifest) -> bytes:
    """``manifest.json``."""
    return (manifest.model_dump_json(indent=2) + "\n").encode("utf-8")


def _parts(bundle: Bundle) -> dict[str, bytes]:
    """Every file but the manifest."""
    return {
        LIBRARY: st.save(_tensors(bundle.library, bundle.space)),
        ACTIONS: table_bytes(bundle.entries, bundle.origins),
        EVALUATION: (bundle.evaluation.model_dump_json(indent=2) + "\n").encode("utf-8"),
        CARD: card_text(bundle.manifest, bundle.evaluation).encode("utf-8"),
    }


def _tensors(library: Library, space: KeySpace) -> dict[str, np.ndarray]:
    """The tensors of ``library.safetensors``, in the order in which they are written."""
    tensors = {"keys": library.keys, "actions": library.actions}
    tensors |= {tensor_name("mean", place): mean for place, mean in space.means.items()}
    tensors |= {tensor_name("map", place): matrix for place, matrix in space.maps.items()}
    return {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}


def _spread(rows: np.ndarray) -> Spread:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    return Spread(n=len(norms), mean=float(norms.mean()), sd=float(norms.std()), low=float(norms.min()), high=float(norms.max()))
