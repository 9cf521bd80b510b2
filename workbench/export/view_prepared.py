"""Bundles, files and archives that the Export page makes, cached by the digests of their sources. Writes below the folder of runs only."""

from collections.abc import Callable
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
"""Folder of exports, below the folder of runs."""


class Written(NamedTuple):
    """A bundle that was written earlier."""

    digest: str
    """Empty if the bundle cannot be read."""
    certificates: tuple[tuple[Certificate, float], ...]
    """Valid certificates, each with the time at which its file was written (seconds since 1970)."""
    refused: tuple[str, ...]
    """Why other certificates, or the bundle itself, are refused."""


def prepared(facts: RunFacts, curation: Curation, library: str, only: str | None) -> Bundle:
    """The bundle of a choice, in memory only.

    Raises:
        StirError: the choice holds no action, or the run is damaged.
    """
    evaluations = [evaluation_facts.evaluation_fingerprint(folder) for folder in evaluation_facts.evaluations_of(facts.run).values()]
    made_from = (run_fingerprint(facts.run), curation.digest, facts.run.advantages_digest(), *evaluations)
    return _prepared(made_from, library, only, facts.run)


@st.cache_resource(max_entries=6, show_spinner=False)
def _prepared(made_from: tuple, library: str, only: str | None, _run: Run) -> Bundle:
    return make_bundle(_run, library, only)


@st.cache_resource(
    max_entries=16, show_spinner="Making the files to list them ...", hash_funcs={Bundle: lambda b: manifest_bytes(b.manifest)}
)
def listed(bundle: Bundle, target: str) -> dict[str, FileFact]:
    """Sizes and hashes of a target's files. The files are made once for this and are not kept."""
    return {name: fact_of(data) for name, data in export_files(bundle, target).items()}


def archiver(bundle: Bundle, target: str, folder: Path) -> Callable[[], bytes]:
    """A function that makes the target's zip from the bundle alone, in any thread: the run may have changed by then."""
    return lambda: archive(folder.name, export_files(bundle, target))


def export_folder(name: str, target: str) -> Path:
    """The folder that an export of that name is written to.

    Raises:
        DeployError: not a plain name.
    """
    if refused := refused_name(name):
        raise DeployError(refused)
    return runs_root() / FOLDER / f"{name}-{target}"


def written(folder: Path) -> Written | None:
    """The bundle at ``folder`` with its certificates; ``None`` if there is none."""
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
    certificates, refused = [], []
    for target in certified_targets(bundle):
        try:
            file = bundle.folder / f"certificate-{target}.json"
            certificates.append((read_certificate(bundle, target), file.stat().st_mtime))
        except DeployError as error:
            refused.append(str(error))
    return Written(bundle.manifest.digest, tuple(certificates), tuple(refused))
