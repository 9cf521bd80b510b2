"""The export targets beside the bundle: one module for each, and a new target is a new module.

``targets/NAME.py`` has a ``RECIPE``; ``stir export --to NAME``, the Python API and the Export page find it by the name of its file. No
target is imported here, so that `stir --help` stays fast.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from stir_core.deploy.bundle.reading import Bundle

INDEX = "stir-export.json"
"""Describes an export: its target, its bundle, its losses. A folder with it and the files that it names alone may be replaced."""


class Recipe(NamedTuple):
    """How a target is made from a bundle, and what it keeps."""

    title: str
    """Title on the Export page."""
    files: Callable[["Bundle"], dict[str, bytes]]
    """Its files by path, :data:`INDEX` among them: a pure function, so that equal bundles give equal files."""
    holds: Literal["all that steers", "keys and vectors", "vectors"]
    """The most that it can keep; lists begin with the target that keeps most."""
    kept: tuple[str, ...]
    """The parts of a library that this target keeps, and those that it loses: one phrase each."""
    lost: tuple[str, ...]
    check: Callable[["Bundle"], None] | None = None
    """Raises ``DeployError`` for a library that the target cannot hold; makes no file."""


def target_names() -> tuple[str, ...]:
    """The bundle, and every target with a module."""
    return ("bundle", *sorted(module.name for module in iter_modules(__path__)))


def index_bytes(target: str, bundle: "Bundle", facts: Mapping[str, Any], files: Iterable[str]) -> bytes:
    """The index of an export: its target and bundle, then the target's own facts and the names of its files."""
    made_from = {"target": target, "base_model": bundle.manifest.base_model, "bundle": bundle.manifest.digest}
    return (json.dumps({**made_from, **facts, "files": sorted(files)}, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def file_names(ids: Iterable[str]) -> dict[str, str]:
    """A stem of a file name for each id, all different, without characters that are special in a path, a shell or a URL."""
    stems: dict[str, str] = {}
    for id_ in ids:
        plain = re.sub(r"[^\w-]", "_", id_, flags=re.ASCII)
        stem, n = plain, 2
        while stem in stems.values():
            stem, n = f"{plain}-{n}", n + 1
        stems[id_] = stem
    return stems
