"""Changing a finished run in a test: a file is written and its digest is renewed, as if its stage had written it."""

from collections.abc import Iterable

from stir_core.records import Record
from stir_core.store.files import file_sha256
from stir_core.store.jsonl import write_record, write_records
from stir_core.store.runs import Run


def rewrite(run: Run, stage: str, name: str, records: Iterable[Record]) -> None:
    """Write records into a file of a finished stage, and its digest into the manifest."""
    file = run.folder(stage) / name
    write_records(file, records)
    manifest = run.manifest(stage)
    write_record(run.folder(stage) / "manifest.json", manifest.replaced(files={**manifest.files, name: file_sha256(file)}))
