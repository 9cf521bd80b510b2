"""Trained latent reasoners on disk, by name: those that come with the package, and those in folders of one's own."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stir_core.errors import StoreError
from stir_core.findings import LatentReport
from stir_core.readings import LatentReading
from stir_core.store.files import file_sha256
from stir_core.store.jsonl import read_record

SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "latent"
"""Every folder in here is offered; ``scripts/shipped_latents.py`` makes them."""
REPORT, READING = "evaluation.json", "reading.json"
"""Beside a reasoner's weights: what ``stir latent eval --json`` printed, and what is read of one question's latents."""


def latent_folders(roots: Iterable[Path]) -> dict[str, Path]:
    """Folders of finished reasoners by name: the shipped ones, then those up to two folders below each root."""
    found = {file.parent.name: file.parent for file in sorted(SHIPPED.glob("*/heads.safetensors"))}
    for root in roots:
        for file in sorted([*root.glob("*/heads.safetensors"), *root.glob("*/*/heads.safetensors")]):
            if (file.parent / "training.jsonl").is_file():
                name = str(file.parent.relative_to(root))
                found[name if name not in found else f"{name} ({root.name})"] = file.parent
    return found


def latent_folder(name: str | Path) -> Path:
    """A reasoner's folder: the folder itself, or the name of one that comes with the package.

    Args:
        name: a text without a separator is a shipped name first: a folder of one's own that is called so is ``./NAME``, or a ``Path``.

    Raises:
        StoreError: neither.
    """
    shipped = latent_folders(())
    if isinstance(name, str) and name in shipped:
        return shipped[name]
    if isinstance(name, str | os.PathLike) and os.path.isdir(name):  # unlike Path.is_dir it takes a name of any length
        return Path(name)
    if str(name) not in shipped:
        raise StoreError(f"{str(name)[:80]} is no folder, nor a reasoner that comes with the package: take one of {', '.join(shipped)}")
    return shipped[str(name)]


def different_folders(names: Iterable[str | Path]) -> list[Path]:
    """Several reasoners' folders.

    Raises:
        StoreError: one is no reasoner, or two are the same.
    """
    found: dict[Path, Path] = {}
    for name in names:
        folder = latent_folder(name)
        if found.setdefault(folder.resolve(), folder) is not folder:
            raise StoreError(f"{name} is named twice: name each reasoner once")
    return list(found.values())


def latent_facts(folder: Path) -> dict[str, Any]:
    """What decided a reasoner's weights: strategy, stage, setting, seed, options.

    Raises:
        StoreError: missing or malformed.
    """
    file = folder / "training.json"
    try:
        facts = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{file} is missing: train the reasoner again with `stir latent train`") from None
    except ValueError:
        facts = None
    wanted = {"strategy": str, "stage": str, "setting": str, "seed": int}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(key), kind) for key, kind in wanted.items()):
        raise StoreError(f"{file} does not say {', '.join(wanted)}: train the reasoner again with `stir latent train`")
    return facts


def latent_report(folder: Path) -> LatentReport | None:
    """The evaluation that is kept beside a reasoner; ``None``: none is.

    Raises:
        StoreError: malformed, or made with other weights.
    """
    file, remedy = folder / REPORT, f"make it again with `stir latent eval {folder} --json > {folder / REPORT}`"
    if not file.is_file():
        return None
    report = read_record(file, LatentReport, remedy)
    if report.weights != file_sha256(folder / "model.safetensors"):
        raise StoreError(f"{file} was made with other weights: {remedy}")
    return report


def kept_reading(folder: Path) -> LatentReading | None:
    """The reading that is kept beside a shipped reasoner; ``None``: none is."""
    file = folder / READING
    return read_record(file, LatentReading, "install the package again") if folder.parent == SHIPPED and file.is_file() else None
