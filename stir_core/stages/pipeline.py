"""Run the stages in order, each reading the folders before it and writing its own; resume an interrupted run.

Each stage has a file in this folder. A finished stage is not made again unless asked (``redo``), and an unfinished one continues where it
stopped.
"""

import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from stir_core.config import STAGES, RunConfig, resolve_layers
from stir_core.errors import StoreError
from stir_core.models.loading import LoadedModel, model_of
from stir_core.records import OnProgress
from stir_core.stages.stage import check_fresh, complete, declared, seal, stage_digest, take_up
from stir_core.store.captured import Captured
from stir_core.store.files import copy_folder
from stir_core.store.jsonl import append_records
from stir_core.store.runs import Run, StageTook
from stir_core.version import VERSION


def run_stages(
    config: RunConfig,
    out: Path,
    *,
    until: str = STAGES[-1],
    redo: str | None = None,
    command: str | None = None,
    report: OnProgress = lambda progress: None,
    model: LoadedModel | None = None,
) -> Run:
    """Make the run at ``out`` up to and including the stage ``until``; finished stages are kept.

    Args:
        redo: make this stage and all later ones again.
        command: the command line that makes the run, kept in run.json for readers.
        model: a model that is loaded already; else the config's is loaded when first needed.

    Raises:
        StirError: see the stages; finished stages stay.
    """
    run = Run.at(out, config, environment() | {"command": command})
    if not _missing(run, until, redo):  # before anything is written: a refusal leaves the run as it was
        return run
    if model is None:
        if (out / "run.json").is_file():
            with run.writer():  # refused before a model is loaded
                pass
        model = model_of(config.model)
    with run.writer():
        _make(run, model, _missing(run, until, redo), redo, report)
    return run


def _missing(run: Run, until: str, redo: str | None) -> list[str]:
    """The stages to make, in order, each checked beforehand, as are the finished ones that stay."""
    kept = _kept(run, redo)
    for stage in kept:
        check_fresh(run, stage)
    missing = [stage for stage in STAGES[: STAGES.index(until) + 1] if stage not in kept]
    for stage in missing:
        run.check_place(stage)
        declared(stage).check(run)
    return missing


def _kept(run: Run, redo: str | None) -> list[str]:
    again = STAGES[STAGES.index(redo) :] if redo is not None else ()
    return [stage for stage in STAGES if run.finished(stage) and stage not in again]


def _make(run: Run, model: LoadedModel, missing: list[str], redo: str | None, report: OnProgress) -> None:
    run.check_model(model.identity, _kept(run, redo))
    if missing and redo is not None:
        run.discard(redo)
    if missing:
        run.save()
    for stage in missing:
        if complete(run, stage, model):
            continue
        started = time.monotonic()
        made = declared(stage).make(run, model, take_up(run, stage, model), report)
        seal(run, stage, model, made)
        # times stay out of the stage's own files, so that equal results are equal files
        seconds = time.monotonic() - started
        rate = round(made.tokens / seconds, 1) if made.tokens else None
        took = StageTook(stage=stage, seconds=round(seconds, 1), tokens=made.tokens, tokens_per_second=rate)
        append_records(run.path / "log.jsonl", [took])


def begin_from(base: Run, config: RunConfig, out: Path, model: LoadedModel) -> None:
    """Begin a run with other mining or selection settings from a finished run's rollouts, and from its states if they serve.

    Raises:
        StoreError: the base run's rollouts are not finished, or were sampled with other settings.
    """
    run = Run.at(out, config, environment())
    if run.finished("rollouts"):
        return
    if base.manifest("rollouts").config_digest != stage_digest(config, "rollouts"):
        raise StoreError(f"the rollouts of {base.path} were sampled with other settings than this config's: make a run of its own")
    run.check_place("rollouts")
    layers = resolve_layers(config.mining.layers, model.n_layers)
    with run.writer():
        if base.finished("states") and not config.compat and not base.config.compat and set(layers) <= set(base.manifest("states").layers):
            Captured(take_up(run, "states", model), layers, model.d_model).adopt(*base.states(layers))
        if not run.finished("rollouts"):  # last, since a run with rollouts has begun
            copy_folder(base.folder("rollouts"), run.path / "rollouts")


def environment() -> dict[str, Any]:
    """Versions, source revision and machine, for reproducing the run. Not part of any digest."""
    packages: dict[str, str] = {"stir-workbench": VERSION, "python": platform.python_version()}
    for name in ("torch", "transformers", "transformer-lens", "numpy", "umap-learn"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    root = Path(__file__).resolve().parents[2]
    git = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    revision = git.stdout.strip() if git.returncode == 0 and (root / ".git").exists() else None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {"versions": packages, "git_revision": revision, "device": device}


def short_environment(facts: dict[str, Any] | None = None) -> dict[str, str]:
    """The part of the :func:`environment` that reports show, as text."""
    facts = environment() if facts is None else facts
    shown = ("stir-workbench", "torch", "transformers", "transformer-lens")
    versions = {name: str(text) for name, text in facts["versions"].items() if name in shown}
    return versions | {"revision": str(facts["git_revision"] or "none")[:12], "device": str(facts["device"])}
