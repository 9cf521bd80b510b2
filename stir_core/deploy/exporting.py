"""One call for every target that a library can be written as; docs/deployment.md says what each keeps and loses."""

from pathlib import Path

from stir_core.deploy.bundle.manifest import LibraryKind
from stir_core.deploy.bundle.reading import Bundle, check_target, read_bundle
from stir_core.deploy.prepared import TARGETS, Prepared, Target, prepare, write
from stir_core.errors import DeployError
from stir_core.store.runs import Run


def export(
    source: Run | Bundle, out: Path, *, to: Target = "bundle", library: LibraryKind | None = None, only: str | None = None
) -> Bundle:
    """Write a run's library, or a bundle, as ``to`` into the folder ``out``, whole or not at all.

    Args:
        library: which of the run's libraries; ``None``: the curated one.
        only: of the curated library, ``"starred"``, ``"tag:NAME"`` or ``"ids:A,B"``.

    Returns:
        The bundle that the files were made from; for the target ``"bundle"`` as it was read again from where it lies.

    Raises:
        DeployError: no such target, a bundle that is to be chosen from, or a folder in use for something else.
        CurationError: nothing is starred or tagged so.
        StoreError: the run has no finished basis, or its files are damaged.
    """
    if to not in TARGETS:
        raise DeployError(f"a library cannot be written as {to!r}: take one of {', '.join(TARGETS)}")
    if isinstance(source, Run):
        if to == "bundle":
            check_target(out)  # said before anything is made
        made = prepare(source, library or "curated", only)
    elif to == "bundle" or library or only:
        raise DeployError(f"{source.folder} is a bundle already: name a run to choose from its library, or another --to")
    else:
        made = Prepared(source, {})
    write(made, to, out)
    return read_bundle(out) if to == "bundle" else made.bundle
