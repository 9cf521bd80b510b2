"""What a new run can start from: experiment files, and the settings of runs that are there."""

import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

from stir_core.commands.overrides import as_toml, changes_between, left_out
from stir_core.config import STAGES, RunConfig
from stir_core.errors import ConfigError
from stir_core.store.configs import read_config
from stir_core.store.runs import Run


class Base(NamedTuple):
    """Settings to start from."""

    label: str
    file: Path | None
    """The experiment file; ``None``: they are a run's, and a new run gets a file of its own."""
    config: RunConfig
    name: str
    """What a run of it is called if nobody says otherwise."""


class Bases(NamedTuple):
    """Everything to start from by label, and one line for every file that cannot be read."""

    found: dict[str, Base]
    broken: list[str]


def bases(folder: Path, runs: list[Run]) -> Bases:
    """Experiment files in ``folder``, then the runs. Files of other kinds (sweeps) have no key in common with a config and are left out."""
    found: dict[str, Base] = {}
    broken: list[str] = []
    for file in sorted(folder.glob("*.toml")):
        try:
            if set(tomllib.loads(file.read_text(encoding="utf-8"))) & set(RunConfig.model_fields):
                found[f"configs/{file.name}"] = Base(f"configs/{file.name}", file, read_config(file), file.stem)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, ConfigError) as error:
            broken.append(f"{file}: {error}" if str(file) not in str(error) else str(error))
    for run in runs:
        label = f"run {run.name}" if f"run {run.name}" not in found else f"run {run.name} ({run.path.parent.name})"
        found[label] = Base(label, None, run.config, f"{run.name}-again")
    return Bases(found, broken)


def arguments(base: Base, config: RunConfig, own_file: Path, out: Path, until: str) -> list[str]:
    """What stands behind ``stir`` to make a run of ``config`` at ``out``.

    Args:
        own_file: where the config will lie if the base has no file.
    """
    changes = changes_between(base.config, config) if base.file else left_out(config)
    sets = [word for change in changes for word in ("--set", change)]
    ends = ["--until", until] if until != STAGES[-1] else []
    return ["run", near(base.file or own_file), *sets, "--out", near(out), *ends]


def typed(words: list[str]) -> str:
    """A command of these arguments as one would type it."""
    return shlex.join(["stir", *words])


def near(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def toml_of(base: Base, config: RunConfig) -> str:
    """The config as a file, with a first line that says what the file cannot."""
    missing = "".join(f" --set {change}" for change in left_out(config))
    return (f"# stir run FILE{missing}\n" if missing else "") + f"# from {base.label}\n" + as_toml(config)
