"""Changing a finished run or study in a test: digests are renewed, as if the file had been written by its stage."""

import json
from collections.abc import Iterable
from pathlib import Path

from stir_core.records import Record
from stir_core.store.files import file_sha256
from stir_core.store.jsonl import write_records
from stir_core.store.runs import Run
from stir_core.store.seals import DIGESTS


def renew(folder: Path, *added: str) -> None:
    """Renew the digests of a stage's or study's files, which a test has changed, and write those of added files."""
    manifest = folder / "manifest.json"
    seal = manifest if manifest.exists() else folder / DIGESTS
    said = json.loads(seal.read_text())
    said["files"] = {name: file_sha256(folder / name) for name in {*said["files"], *added}}
    seal.write_text(json.dumps(said))


def rewrite(run: Run, stage: str, name: str, records: Iterable[Record]) -> None:
    """Write records into a file of a finished stage, and its digest into the manifest."""
    write_records(run.folder(stage) / name, records)
    renew(run.folder(stage), name)
