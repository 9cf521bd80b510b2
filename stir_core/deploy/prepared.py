"""A bundle in memory, before anything is written: what each target would be, whether it can be, and one archive of it.

made = prepare(run, "curated", "starred")
refusal(made.bundle, "gguf")                  # None, or the reason
write(made, "bundle", Path("out"))            # the folder that `stir export` writes
archive("out", files_for(made, "easysteer"))  # the same files as one zip; equal files give equal bytes
"""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from stir_core.deploy import control_vectors, easysteer, published
from stir_core.deploy.bundle import Bundle, manifest_bytes, parsed, seal, with_files
from stir_core.deploy.folders import write_export
from stir_core.deploy.making import made_from
from stir_core.deploy.manifest import MANIFEST, LibraryKind
from stir_core.errors import DeployError
from stir_core.store.runs import Run

Target = Literal["bundle", "published", "easysteer", "gguf"]
TARGETS: tuple[Target, ...] = get_args(Target)
"""What a library can be written as, from the one that keeps most to the one that keeps least."""

KEPT: dict[Target, tuple[str, ...]] = {
    "bundle": (
        "all that steers: vectors, keys and their space, null entries, gate, previews, the impulse at a step's end",
        "the model's identity, by hash; names, tags, notes and lineage; what was measured",
    ),
    "published": ("vectors, keys and null entries; retrieval by the plain cosine, gate and impulse are the published controller's own",),
    "easysteer": ("vectors, with the gate's strength at cosine 1 without a preview; an impulse at the last token of a request's prompt",),
    "gguf": ("vectors, with the gate's strength at cosine 1 without a preview",),
}
LOST: dict[Target, tuple[str, ...]] = {
    "bundle": ("the run behind it: problems, rollouts and states (a bundle becomes no run)",),
    "published": published.LOST,
    "easysteer": easysteer.LOST,
    "gguf": control_vectors.LOST,
}
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
    check = {"gguf": control_vectors.check_blocks, "published": published.check_space}.get(target)
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
    if target == "bundle":
        return dict(made.files)
    made_by = {"gguf": control_vectors.control_vectors, "easysteer": easysteer.steering_specs, "published": published.published_files}
    return made_by[target](made.bundle)


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
