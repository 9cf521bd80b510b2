"""A bundle of a library in the published layout, on the word of whoever names the run or bundle that it is like."""

from pathlib import Path

from stir_core import __version__
from stir_core.deploy.bundle.manifest import BundleManifest, EvaluationSummary, Provenance
from stir_core.deploy.bundle.reading import Bundle, parsed, with_files
from stir_core.deploy.making import describe, norms_of
from stir_core.deploy.targets.published import Published
from stir_core.errors import DeployError
from stir_core.keyspace import KeySpace
from stir_core.store.curated import Curated, Origin


def bundled(found: Published, folder: Path, like: Bundle) -> tuple[BundleManifest, dict[str, bytes]]:
    """Manifest and files of the bundle: the library that was found, with the model and the Stage III settings of ``like``.

    Raises:
        DeployError: it does not fit that model or those control points.
    """
    library, model, stage3 = found.library, like.manifest.model, like.manifest.stage3
    if library.keys.shape[1] != model.d_model:
        raise DeployError(
            f"{folder} has vectors of width {library.keys.shape[1]}, {model.name} has {model.d_model}: name what it was made with"
        )
    layers = tuple(sorted({entry.layer for entry in library.entries}))
    if layers[-1] >= model.n_layers:
        raise DeployError(
            f"{folder} has actions of block {layers[-1]}, {model.name} has {model.n_layers} blocks: name what it was made with"
        )
    latest = max(entry.m for entry in library.entries)
    if latest > stage3.control_points:
        raise DeployError(
            f"{folder} has entries at control point {latest}, --like knows {stage3.control_points}: name what it was made with"
        )
    n_actions = sum(entry.kind == "corrective" for entry in library.entries)
    if not n_actions:
        raise DeployError(f"{folder} holds no action to steer with")
    chosen = Curated(library, tuple(_unmarked(entry.id) for entry in library.entries))
    word = f"model and settings are those of {like.manifest.provenance.run}, on the word of whoever imported it"
    manifest = like.manifest.replaced(
        layers=layers,
        n_entries=len(library.entries),
        n_actions=n_actions,
        norms=norms_of(chosen),
        stage3=stage3.replaced(similarity="cosine"),
        provenance=Provenance(
            run=folder.resolve().name,
            config_digest=like.manifest.provenance.config_digest,
            inputs={},
            library="published",
            only=None,
            curation_version=0,
            curation_digest=None,
            versions={"writer": f"stir-workbench {__version__}"},
        ),
        notes=(*like.manifest.notes, *found.notes, word),
    )
    summary = EvaluationSummary(evaluated=False, reason="imported from the published layout, which holds no evaluation")
    return describe(chosen, KeySpace("cosine", {}, {}), manifest, summary)


def bundle_like(found: Published, folder: Path, like: Bundle) -> Bundle:
    """The same, without writing it."""
    manifest, files = bundled(found, folder, like)
    return parsed(folder, with_files(manifest, files), files)


def _unmarked(entry_id: str) -> Origin:
    return Origin(entry_id=entry_id, name=None, starred=False, tags=(), note=None)
