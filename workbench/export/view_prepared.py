"""What the Export page makes through the core, kept in memory by what it was made from; writes below the folder of runs only."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import streamlit as st

from stir_core.deploy.bundle.manifest import FileFact
from stir_core.deploy.bundle.reading import Bundle, is_bundle, read_bundle
from stir_core.deploy.bundle.writing import fact_of, manifest_bytes
from stir_core.deploy.certify.certificate import Certificate, certified_targets, read_certificate
from stir_core.deploy.export import archive, export_files, make_bundle
from stir_core.errors import DeployError
from stir_core.store.curation import Curation
from stir_core.store.runs import Run
from workbench.bootstrap import runs_root
from workbench.export.data import refused_name
from workbench.shared import facts as evaluation_facts
from workbench.shared.facts import RunFacts, run_fingerprint

FOLDER = "exports"
"""Below the folder of runs; holds no run of its own."""


class Written(NamedTuple):
    """A bundle that lies in the folder already."""

    digest: str
    certificates: tuple[tuple[Certificate, float], ...]
    """Each with when its file was written (seconds since 1970)."""
    refused: tuple[str, ...]
    """Why others, or the bundle itself, are not believed."""


def prepared(facts: RunFacts, curation: Curation, library: str, only: str | None) -> Bundle:
    """The bundle of a choice, not written anywhere.

    Raises:
        StirError: the choice holds nothing, or the run is damaged.
    """
    found = [evaluation_facts.evaluation_fingerprint(folder) for folder in evaluation_facts.evaluations_of(facts.run).values()]
    made_from = (run_fingerprint(facts.run), curation.digest, facts.run.advantages_digest(), *found)
    return _prepared(made_from, library, only, facts.run)


@st.cache_resource(max_entries=6, show_spinner=False)
def _prepared(made_from: tuple, library: str, only: str | None, _run: Run) -> Bundle:
    return make_bundle(_run, library, only)


def listed(made: Bundle, target: str) -> dict[str, FileFact]:
    """Sizes and hashes of a target's files; makes the files for it, once, and keeps none."""
    return _listed(hashlib.sha256(manifest_bytes(made.manifest)).hexdigest(), target, made)


@st.cache_resource(max_entries=16, show_spinner="Making the files to measure them ...")
def _listed(digest: str, target: str, _made: Bundle) -> dict[str, FileFact]:
    return {name: fact_of(data) for name, data in export_files(_made, target).items()}


def archiver(made: Bundle, target: str, folder: Path) -> Callable[[], bytes]:
    """Makes the target's zip when it is called, in whatever thread; reads nothing but what was shown."""
    return partial(_archive, made, target, folder.name)


def _archive(made: Bundle, target: str, name: str) -> bytes:
    return archive(name, export_files(made, target))


def place(name: str, target: str) -> Path:
    """Where an export of that name is written.

    Raises:
        DeployError: not a plain name.
    """
    if refused := refused_name(name):
        raise DeployError(refused)
    return runs_root() / FOLDER / f"{name}-{target}"


def written(folder: Path) -> Written | None:
    """The bundle that lies at ``folder`` with its certificates; ``None`` where there is none."""
    if not is_bundle(folder):
        return None
    stamps = tuple(sorted((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in folder.iterdir()))
    return _written(str(folder), stamps)


@st.cache_resource(max_entries=8, show_spinner=False)
def _written(folder: str, stamps: tuple) -> Written:
    try:
        bundle = read_bundle(Path(folder))
    except DeployError as error:
        return Written("", (), (str(error),))
    found, refused = [], []
    for target in certified_targets(bundle):
        try:
            file = bundle.folder / f"certificate-{target}.json"
            found.append((read_certificate(bundle, target), file.stat().st_mtime))
        except DeployError as error:
            refused.append(str(error))
    return Written(bundle.manifest.digest, tuple(found), tuple(refused))
