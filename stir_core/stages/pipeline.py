"""Run the stages in order, each reading the folders before it and writing its own; resume an interrupted run.

Each stage has a file in this folder. A finished stage is not made again unless asked (``redo``), and an unfinished one continues where it
stopped.
"""

import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from stir_core.config import ON_REQUEST, STAGES, RunConfig, resolve_layers, with_changes
from stir_core.errors import StoreError
from stir_core.findings import CodebookReport
from stir_core.models.loading import LoadedModel, model_of
from stir_core.models.workers import WorkerPool
from stir_core.records import ModelIdentity, OnProgress
from stir_core.stages.codes import make_codes
from stir_core.stages.stage import Made, check_fresh, complete, declared, made_alike, seal, take_up
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
    pool: WorkerPool | None = None,
    base: Run | None = None,
) -> Run:
    """Make the run at ``out`` up to and including the stage ``until``; finished stages are kept.

    Args:
        redo: make this stage and all later ones again.
        command: the command line that makes the run, kept in run.json for readers.
        model: a model that is loaded already; else the config's is loaded when first needed.
        pool: workers that decode in this process's place, if no model is given.
        base: a run whose rollouts, and whose states if they serve, are taken instead of making them.

    Raises:
        StirError: see the stages and :func:`begin_from`; finished stages stay.
    """
    run = Run.at(out, config, environment() | {"command": command})
    if not _missing(run, until, redo):  # before anything is written: a refusal leaves the run as it was
        return run
    if model is None:
        if (out / "run.json").is_file():
            with run.writer():  # refused before a model is loaded
                pass
        model = model_of(config.model, None, pool)
    if base is not None:
        begin_from(base, config, out, model)
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
        resolve_layers(run.config.mining.layers, model.n_layers)  # refused before finished stages are discarded
        run.discard(redo)
    if missing:
        run.save()
    for stage in missing:
        _make_stage(run, stage, model.identity, partial(declared(stage).make, run, model), report)


def _make_stage(run: Run, stage: str, model: ModelIdentity, make: Callable[[Path, OnProgress], Made], report: OnProgress) -> None:
    if complete(run, stage, model):
        return
    started = time.monotonic()
    made = make(take_up(run, stage, model), report)
    seal(run, stage, model, made)
    # times stay out of the stage's own files, so that equal results are equal files
    seconds = time.monotonic() - started
    rate = round(made.tokens / seconds, 1) if made.tokens else None
    took = StageTook(stage=stage, seconds=round(seconds, 1), tokens=made.tokens, tokens_per_second=rate)
    append_records(run.path / "log.jsonl", [took])


def make_codebook(
    run: Run,
    settings: Mapping[str, Any] | None = None,
    *,
    redo: bool = False,
    model: LoadedModel | None = None,
    report: OnProgress = lambda progress: None,
) -> CodebookReport:
    """The codebook of a run's steps: made, or read if it was made with these settings.

    Args:
        settings: keys of the config's section ``codes``; none: the codebook that is there, whatever its settings.
        redo: make the codebook again.
        model: the run's model; loaded if the states of the steps are missing and none is given.

    Raises:
        ConfigError: a setting out of range.
        StoreError: an embedded run, rollouts that have not finished, or another codebook without ``redo``.
        MismatchError: another model than the run's.
    """
    if run.finished("codes") and not settings and not redo:
        run.check_files("codes")  # figures of a codebook that is damaged are none
        return run.codebook()
    run.folder("rollouts")
    run.check_text()
    if run.embedded:
        raise StoreError(f"{run.name} is an embedded run, which is never written to: copy {run.path} and name the copy")
    changed = with_changes(run.config, codes=dict(settings or {}))
    run = Run(run.path, run.facts | {"config": changed.model_dump(mode="json")})  # run.json keeps the settings that `stir run` was given
    again = [stage for stage in ON_REQUEST if run.finished(stage) and _other_steps(run, stage)]
    if run.finished("codes") and not redo:
        check_codes(run)
        run.check_files("codes")
        return run.codebook()
    if "steps" not in run.stages() or again:
        model = model_of(run.config.model) if model is None else model
        run.check_model(model.identity, ("rollouts",))
    for stage in ON_REQUEST:
        run.check_place(stage)
    if run.finished("steps") and not again:
        from stir_core.evaluate.codes import table_for

        table_for(run, run.config.codes, run.steps()[0])  # what cannot be made takes nothing away
    with run.writer():
        if again or (redo and run.finished("codes")):
            run.discard("steps" if again else "codes")
        if not run.finished("steps") and model is not None:
            _make_stage(run, "steps", model.identity, partial(declared("steps").make, run, model), report)
        _make_stage(run, "codes", run.manifest("steps").model, partial(make_codes, run, None), report)
    return run.codebook()


def _other_steps(run: Run, stage: str) -> bool:
    """Whether the states of the steps were made with other settings or from other rollouts; they are then made again with the codebook."""
    manifest = run.manifest(stage)
    return stage == "steps" and not (made_alike(run.config, stage, manifest) and manifest.inputs == {"rollouts": run.digest("rollouts")})


def check_codes(run: Run) -> None:
    """Refuse a codebook that was made with other settings, or from other rollouts, states or advantages.

    Raises:
        StoreError: naming the remedy.
    """
    try:
        check_fresh(run, "codes")
    except StoreError as error:
        raise StoreError(str(error).replace("add --redo codes, or choose another --out", "add --redo")) from None


def begin_from(base: Run, config: RunConfig, out: Path, model: LoadedModel) -> None:
    """Begin a run with other mining or selection settings from a finished run's rollouts, and from its states if they serve.

    Raises:
        StoreError: the base run's rollouts are not finished, or were sampled with other settings.
    """
    run = Run.at(out, config, environment())
    if run.finished("rollouts"):
        return
    if not made_alike(config, "rollouts", base.manifest("rollouts")):
        raise StoreError(f"the rollouts of {base.path} were sampled with other settings than this config's: make a run of its own")
    run.check_place("rollouts")
    layers = resolve_layers(config.mining.layers, model.n_layers)
    with run.writer():
        if base.finished("states") and not config.compat and not base.config.compat and set(layers) <= set(base.manifest("states").layers):
            Captured(take_up(run, "states", model.identity), layers, model.d_model).adopt(*base.states(layers))
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
