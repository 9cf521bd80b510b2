"""Writing an export: a folder of files, whole or not at all, and never over anything else."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stir_core.deploy.bundle.reading import write_file
from stir_core.errors import DeployError

INDEX = "stir-export.json"
"""Says of an export what it is, what it was made from and what it lost; also the mark by which an older one may be replaced."""


def index_bytes(target: str, facts: Mapping[str, Any]) -> bytes:
    """The index of an export."""
    return (json.dumps({"target": target, **facts}, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def write_export(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write an export's files (names may have folders); one that lies there is replaced, anything else is not.

    Raises:
        DeployError: the folder is in use for something else, or cannot be written.
    """
    folder = Path(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DeployError(f"{folder} is not a folder: choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INDEX).is_file():
        raise DeployError(f"{folder} holds other files than an export's: choose another --out, nothing there is overwritten")
    part = folder.with_name(f"{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        for name, data in files.items():
            place = part / name
            place.parent.mkdir(parents=True, exist_ok=True)
            write_file(place, data)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except OSError as error:
        raise DeployError(f"{folder} cannot be written ({error.strerror}): choose another --out, or free the disk") from None


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
