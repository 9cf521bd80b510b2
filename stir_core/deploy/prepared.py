"""A bundle in memory, before anything is written: what each target would be, whether it can be, and one archive of it.

made = prepare(run, "curated", "starred")
refusal(made.bundle, "gguf")                  # None, or the reason
write(made, "bundle", Path("out"))            # the folder that `stir export` writes
archive("out", files_for(made, "easysteer"))  # the same files as one zip; equal files give equal bytes
"""

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from stir_core.deploy.bundle.manifest import MANIFEST, LibraryKind
from stir_core.deploy.bundle.reading import Bundle, manifest_bytes, parsed, seal, with_files
from stir_core.deploy.making import made_from
from stir_core.deploy.targets import easysteer, gguf, published
from stir_core.deploy.targets.folders import write_export
from stir_core.errors import DeployError
from stir_core.store.runs import Run

Target = str
"""A key of :data:`TARGETS`."""


class Recipe(NamedTuple):
    """How a target is made of a bundle, and what a reader must know of it."""

    files: Callable[[Bundle], dict[str, bytes]] | None
    """Its files by path, the index of :func:`stir_core.deploy.targets.folders.index_bytes` among them; ``None``: the bundle's own."""
    kept: tuple[str, ...]
    """What a library keeps of itself in this form, and what it loses: one phrase each."""
    lost: tuple[str, ...]
    check: Callable[[Bundle], None] | None = None
    """Raises ``DeployError`` for a library that it cannot hold."""


TARGETS: dict[Target, Recipe] = {
    "bundle": Recipe(
        None,
        kept=(
            "all that steers: vectors, keys and their space, null entries, gate, previews, the impulse at a step's end",
            "the model's identity, by hash; names, tags, notes and lineage; what was measured",
        ),
        lost=("the run behind it: problems, rollouts and states (a bundle becomes no run)",),
    ),
    "published": Recipe(
        published.published_files,
        kept=("vectors, keys and null entries; retrieval by the plain cosine, gate and impulse are the published controller's own",),
        lost=published.LOST,
        check=published.check_space,
    ),
    "easysteer": Recipe(
        easysteer.steering_specs,
        kept=("vectors, with the gate's strength at cosine 1 without a preview; an impulse at the last token of a request's prompt",),
        lost=easysteer.LOST,
    ),
    "gguf": Recipe(
        gguf.control_vectors,
        kept=("vectors, with the gate's strength at cosine 1 without a preview",),
        lost=gguf.LOST,
        check=gguf.check_blocks,
    ),
}
"""What a library can be written as, from the one that keeps most to the one that keeps least. One put in here is like any other."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_PLAIN = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)


class Prepared(NamedTuple):
    """A bundle that lies nowhere yet, and is whole."""

    bundle: Bundle
    files: Mapping[str, bytes]
    """Every file of it, its manifest among them."""


def prepare(run: Run, library: LibraryKind = "curated", only: str | None = None) -> Prepared:
    """Make a run's bundle without writing it: what all targets are made from.

    Raises:
        As :func:`stir_core.deploy.making.made_from`.
    """
    manifest, files = made_from(run, library, only)
    manifest = with_files(manifest, files)
    return Prepared(parsed(run.path, manifest, files), {**files, MANIFEST: manifest_bytes(manifest)})


def refusal(bundle: Bundle, target: Target) -> str | None:
    """Why the target cannot hold this library; ``None`` where it can. Makes no file."""
    check = TARGETS[target].check
    try:
        if check is not None:
            check(bundle)
    except DeployError as error:
        return str(error)
    return None


def files_for(made: Prepared, target: Target) -> dict[str, bytes]:
    """Every file of a target, by path.

    Raises:
        DeployError: see :func:`refusal`.
    """
    make = TARGETS[target].files
    return dict(made.files) if make is None else make(made.bundle)


def write(made: Prepared, target: Target, folder: Path) -> None:
    """Write a target's folder, whole or not at all; an older one of its kind is replaced, anything else is not.

    Raises:
        DeployError: see :func:`refusal`; or the folder is in use for something else, or cannot be written.
    """
    files = files_for(made, target)
    if target == "bundle":
        seal(folder, made.bundle.manifest, {name: data for name, data in files.items() if name != MANIFEST})
    else:
        write_export(folder, files)


def archive(folder: str, files: Mapping[str, bytes]) -> bytes:
    """One zip with all files in ``folder``: stored, sorted, without times or owners.

    Raises:
        DeployError: a path that is more than plain names.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        for name in sorted(files):
            path = f"{folder}/{name}"
            if not _PLAIN.fullmatch(path):
                raise DeployError(f"{path[:80]!r} is no plain path for an archive: use letters, digits, dots, dashes and underscores")
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # the same on every machine
            packed.writestr(entry, files[name])
    return out.getvalue()
