"""The composition root: the folder of runs, cached facts, and the one model of this server. Draws nothing."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import streamlit as st

from stir_core.errors import FAULTS, escaped, line_of
from stir_core.models.catalogue import catalogue
from stir_core.readings import LatentReading
from stir_core.saved import SavedContent
from stir_core.store.evaluations import EvaluationFolder
from stir_core.store.files import file_sha256
from stir_core.store.latents import kept_reading, latent_folders
from stir_core.store.runs import Run, list_runs
from stir_core.store.saved import SavedFolder, run_digest
from workbench.jobs import JobStore
from workbench.live import Decodings, ModelShelf, Steering, load_latent_reasoner
from workbench.shared.facts import EvaluationFacts, RunFacts, evaluation_fingerprint, evaluations_of, run_fingerprint

PAGES = Path(__file__).resolve().parents[1] / "pages"
"""Folder of the pages, absolute: string paths would resolve against the entry point's folder."""


def runs_root() -> Path:
    """Folder of runs: ``STIR_RUNS``, else ``runs`` in the working directory."""
    return Path(os.environ.get("STIR_RUNS") or "runs").resolve()


class KnownRuns(NamedTuple):
    """The runs that can be read, by name, and one line for every folder that cannot."""

    runs: dict[str, RunFacts]
    broken: dict[str, str]


def known_runs() -> KnownRuns:
    """Every run by name, the embedded ones first; a second run of the same name gets its folder's name added."""
    runs: dict[str, RunFacts] = {}
    listed, unreadable = list_runs(runs_root())
    broken = {escaped(str(path)): line for path, line in unreadable.items()}
    for run in listed:
        name = run.name if run.name not in runs else f"{run.name} ({run.path.parent.name})"
        try:
            runs[name] = _facts(run_fingerprint(run), run)
        except FAULTS as error:
            broken[escaped(str(run.path))] = line_of(error)
    return KnownRuns(runs, broken)


@st.cache_resource(max_entries=32, show_spinner=False)
def _facts(print_of_run: str, _run: Run) -> RunFacts:
    return RunFacts(_run)


def known_evaluations(facts: RunFacts) -> dict[str, EvaluationFacts]:
    """A run's evaluations by label, read again as soon as its files change."""
    return {label: _evaluation(evaluation_fingerprint(folder), folder) for label, folder in evaluations_of(facts.run).items()}


@st.cache_resource(max_entries=32, show_spinner=False)
def _evaluation(print_of_folder: str, _folder: EvaluationFolder) -> EvaluationFacts:
    return EvaluationFacts(_folder)


@st.cache_resource(show_spinner=False)
def shelf() -> ModelShelf:
    """The one model of this server, shared by all browser tabs."""
    return ModelShelf()


def steering(facts: RunFacts) -> AbstractContextManager[Steering]:
    """The live session of a run for the length of a ``with`` block; loads its model on first use.

    Raises:
        StirError: on entering: the model cannot be loaded, the run was made with another one, or another model is answering.
    """
    return shelf().lent(facts.run, run_fingerprint(facts.run))


@st.cache_resource(show_spinner=False)
def decodings() -> Decodings:
    """What is being decoded on this server, for all browser tabs."""
    return Decodings()


def saved() -> SavedFolder:
    """What was decoded and measured before, in the folder of runs."""
    return SavedFolder(runs_root())


def saved_content(id_: str) -> SavedContent:
    """The content of one piece of saved work, which never changes.

    Raises:
        StoreError: there is none of that id, or it is damaged.
    """
    saved().work(id_)
    return _saved_content(str(runs_root()), id_)


@st.cache_resource(max_entries=64, show_spinner=False)
def _saved_content(root: str, id_: str) -> SavedContent:
    return SavedFolder(root).content(id_)


def run_of_saved(id_: str) -> str | None:
    """Name of the run that a piece of saved work was made with, or is being made with; ``None``: one of the two is not here."""
    running = next((each.run for each in decodings().running() if each.id == id_), None)
    if running is not None:
        return running
    try:
        return runs_by_digest().get(saved().work(id_).run_digest)
    except FAULTS:  # the page that opens it says so
        return None


def runs_by_digest() -> dict[str, str]:
    """Names of the runs by the digest of their stages (:func:`~stir_core.store.saved.run_digest`); of equal ones the first."""
    return {run_digest(facts.run): name for name, facts in reversed(known_runs().runs.items())}


def jobs() -> JobStore:
    """Jobs that were started from a page, by this server or an earlier one."""
    return JobStore(runs_root())


def offered_models(also: str) -> list[str]:
    """Models that a page may name: the embedded one, those converted on this machine, ``.gguf`` files in ``STIR_MODELS``, and ``also``."""
    listed = [row.name for row in catalogue() if row.kind == "embedded" or (row.kind == "gguf" and Path(row.name).is_file())]
    folder = os.environ.get("STIR_MODELS")
    local = sorted(str(file.resolve()) for file in Path(folder).glob("*.gguf")) if folder else []
    return list(dict.fromkeys([also, *listed, *local]))


def known_reasoners() -> dict[str, Path]:
    """Folders of trained latent reasoners: shipped ones, and those below STIR_RUNS and STIR_MODELS."""
    models = os.environ.get("STIR_MODELS")
    return latent_folders([runs_root(), *([Path(models).resolve()] if models else [])])


def latent_reading(folder: Path, question: str, other: str | None) -> LatentReading:
    """What is read of one question's latents; the model is loaded on first use, unless the reading came with the package.

    Raises:
        DataError: the folder holds no reasoner, or a text is no problem that it can be asked.
    """
    kept = kept_reading(folder)
    if kept is not None and kept.question == question and other in (None, kept.other):
        return kept
    return _latent_reading(f"{folder}:{file_sha256(folder / 'model.safetensors')}", folder, question, other)


@st.cache_resource(max_entries=64, show_spinner=False)
def _latent_reading(print_of_weights: str, _folder: Path, question: str, other: str | None) -> LatentReading:
    return _reasoner(print_of_weights, _folder)(question, other)


@st.cache_resource(max_entries=4, show_spinner=False)
def _reasoner(print_of_weights: str, _folder: Path) -> Callable[[str, str | None], LatentReading]:
    return load_latent_reasoner(_folder)
