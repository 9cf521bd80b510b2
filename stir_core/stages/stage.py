"""The declaration of a stage, and the steps common to all stages: open its unfinished folder, and seal it when it is done.

A stage is declared in one file: the stages that it reads, the settings that its results depend on, and the function that makes it. Its file
imports torch and the model only inside that function, so that pages can import it to ask about stages.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stir_core.config import ON_REQUEST, STAGES, RunConfig, digest_of, with_changes
from stir_core.errors import StoreError
from stir_core.records import Manifest, ModelIdentity, OnProgress
from stir_core.store.files import remove_folder, write_whole
from stir_core.store.jsonl import read_record
from stir_core.store.runs import Run

if TYPE_CHECKING:
    from stir_core.models.loading import LoadedModel


class Made(NamedTuple):
    """A stage's report on the files that it has written."""

    counts: dict[str, int]
    tokens: int = 0
    """Tokens that this process ran through the model."""
    layers: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    """Warnings that a reader must see."""
    inputs: dict[str, str] = {}  # noqa: RUF012 (never changed)
    """Digests of inputs other than the stages that the declaration names."""


class Stage(NamedTuple):
    """The declaration of a stage."""

    name: str
    """Its folder in a run, and its name in ``--until`` and ``--redo``."""
    reads: tuple[str, ...]
    """Stages whose files it reads; the stages that those read need not be named."""
    settings: Callable[[RunConfig], dict[str, Any]]
    """Settings that its results depend on, besides those of the stages it reads: JSON-able values by name, none that only change speed."""
    make: "Callable[[Run, LoadedModel, Path, OnProgress], Made]"
    """Writes the stage's files into the given folder, which may hold files of an earlier attempt with the same settings."""
    check: Callable[[Run], None] = lambda run: None
    """Raises a ``StirError`` if the stage cannot be made; called before any stage is made."""


DECLARED: dict[str, Stage] = {}
"""Stages by name that were used or registered in this process."""


def register_stage(stage: Stage) -> None:
    """Add a stage after the others in this process; one of the same name is replaced."""
    DECLARED[stage.name] = stage
    if stage.name not in (*STAGES, *ON_REQUEST):
        STAGES.append(stage.name)


def declared(name: str) -> Stage:
    """The declaration of a stage: ``STAGE`` in ``stir_core/stages/<name>.py``, or one given to :func:`register_stage`."""
    if name not in DECLARED:
        DECLARED[name] = import_module(f"stir_core.stages.{name}").STAGE
    return DECLARED[name]


def sources(name: str) -> tuple[str, ...]:
    """All stages that a stage is made from, directly or through others, in order."""
    direct = declared(name).reads
    return tuple(each for each in (*STAGES, *ON_REQUEST) if each in direct or any(each in sources(other) for other in direct))


def stage_digest(config: RunConfig, name: str) -> str:
    """Digest (16 hex digits) of every setting that the results of a stage depend on."""
    settings: dict[str, Any] = {}
    for each in (*sources(name), name):
        settings |= declared(each).settings(config)
    return digest_of(settings)


def made_alike(config: RunConfig, name: str, manifest: Manifest) -> bool:
    """Whether a finished stage has the settings that ``config`` gives it.

    The model may lie at another place if the last part of its name is the same: its weights are compared before anything is made with it.
    """
    known = manifest.model.name
    if manifest.config_digest != stage_digest(config, name) and Path(known).name == Path(config.model.name).name:
        config = with_changes(config, model={"name": known})
    return manifest.config_digest == stage_digest(config, name)


def check_fresh(run: Run, name: str) -> None:
    """Refuse a finished stage that was made with other settings or other inputs than the run's.

    Raises:
        StoreError: the message names the stage and the remedy.
    """
    manifest = run.manifest(name)
    if not made_alike(run.config, name, manifest):
        raise StoreError(f'stage "{name}" of {run.path} was made with other settings: add --redo {name}, or choose another --out')
    for source, digest in manifest.inputs.items():
        if source == "advantages" and run.advantages_digest() != digest:
            raise StoreError(f'stage "{name}" of {run.path} was made from other measured advantages: add --redo {name}')
        if run.finished(source) and run.digest(source) != digest:
            raise StoreError(f'stage "{name}" of {run.path} was made from another "{source}": add --redo {name}')


def take_up(run: Run, name: str, model: ModelIdentity) -> Path:
    """The stage's ``.part`` folder; files of an attempt with other settings or another model are removed.

    Raises:
        StoreError: the folder was not written by a stage.
    """
    run.check_place(name)
    file = run.part(name) / "marker"
    marker = f"{stage_digest(run.config, name)} {model.weights_sha256} {model.dtype}\n".encode()
    if not file.is_file() or file.read_bytes() != marker:
        run.check_unlisted(file.parent)
        remove_folder(file.parent)
        file.parent.mkdir(parents=True)
        write_whole(file, marker)
    return file.parent


def complete(run: Run, name: str, model: ModelIdentity) -> bool:
    """Give a stage its final name if all of it had been written when its process was killed, with these settings and this model."""
    file = run.part(name) / "manifest.json"
    if not file.is_file():
        return False
    known = read_record(file, Manifest, f"remove {file.parent}, and run again")
    inputs = {each: run.digest(each) for each in sources(name)}
    if "advantages" in known.inputs:
        inputs["advantages"] = run.advantages_digest() or ""
    wanted = stage_digest(run.config, name), model.weights_sha256, model.dtype, inputs
    if (known.config_digest, known.model.weights_sha256, known.model.dtype, known.inputs) != wanted:
        run.check_unlisted(file.parent)
        remove_folder(file.parent)
        return False
    run.give_name(name)
    return True


def seal(run: Run, name: str, model: ModelIdentity, made: Made) -> None:
    """Give the stage's ``.part`` folder a manifest and its final name."""
    manifest = Manifest(
        stage=name,
        model=model,
        layers=made.layers,
        config_digest=stage_digest(run.config, name),
        inputs={each: run.digest(each) for each in sources(name)} | made.inputs,
        counts=made.counts,
        notes=made.notes,
    )
    with run.writing(name, lambda: manifest):
        pass
