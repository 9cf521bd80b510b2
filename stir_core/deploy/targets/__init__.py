"""What a library can be written as, beside a bundle: one module a target, and a new module is all that a new target needs.

``targets/NAME.py`` has a ``RECIPE``; ``stir export --to NAME``, the Python call and the Export page find it by the name of its file.
Nothing is imported here, so that `stir --help` loads none of what writes them.
"""

import json
import re
from collections.abc import Callable, Mapping
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from stir_core.deploy.bundle.reading import Bundle

INDEX = "stir-export.json"
"""Says of an export what it is, what it was made from and what it lost; also the mark by which an older one may be replaced."""


class Recipe(NamedTuple):
    """How a target is made of a bundle, and what a reader must know of it."""

    title: str
    """What the Export page calls it."""
    files: Callable[["Bundle"], dict[str, bytes]]
    """Its files by path, :data:`INDEX` among them: a pure function, so that equal bundles give equal files."""
    holds: Literal["all that steers", "keys and vectors", "vectors"]
    """The most that it keeps; lists begin with the target that keeps most."""
    kept: tuple[str, ...]
    """What a library keeps of itself in this form, and what it loses: one phrase each."""
    lost: tuple[str, ...]
    check: Callable[["Bundle"], None] | None = None
    """Raises ``DeployError`` for a library that it cannot hold; makes no file."""


def target_names() -> tuple[str, ...]:
    """Every target that there is a module for, and the bundle."""
    return ("bundle", *sorted(module.name for module in iter_modules(__path__)))


def index_bytes(target: str, facts: Mapping[str, Any]) -> bytes:
    """The index of an export."""
    return (json.dumps({"target": target, **facts}, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def file_names(ids: tuple[str, ...]) -> dict[str, str]:
    """A file name's stem for each id, without characters that a path, a shell or an URL reads otherwise; all different."""
    stems: dict[str, str] = {}
    for id_ in ids:
        plain = re.sub(r"[^\w-]", "_", id_, flags=re.ASCII)
        stem, n = plain, 2
        while stem in stems.values():
            stem, n = f"{plain}-{n}", n + 1
        stems[id_] = stem
    return stems
