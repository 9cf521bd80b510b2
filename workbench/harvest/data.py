"""The Harvest page's data: settings as form fields, what a new run can start from, model names, and the progress of a job.

Kinds, bounds, options and help of a field come from the JSON schema of ``stir_core.config``. The form gives a plain mapping, which the
config's own rules check.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic_core import to_jsonable_python

from stir_core.commands.overrides import as_text, as_toml, changes_between, left_out
from stir_core.config import STAGES, RunConfig
from stir_core.errors import ConfigError
from stir_core.store.configs import read_config
from stir_core.store.progress import ProgressLine
from stir_core.store.runs import Run
from stir_core.tasks import task_names, task_spec
from stir_core.tasks.prompts import TEMPLATES
from workbench.shared.facts import RunFacts

Kind = Literal["int", "float", "choice", "choices", "bool", "line", "prose", "list", "table"]
"""Widget of a field. ``line``: one line of text, line breaks as ``\\n``; ``prose``: several lines; ``choices``: several options;
``table``: names and values as TOML writes them."""

GENERAL = ""
"""Section of the settings that belong to none."""
FIRST = (
    "model.name",
    "task.name",
    "task.levels",
    "task.n_train",
    "task.n_eval",
    "rollouts.k",
    "rollouts.max_new_tokens",
    "mining.layers",
    "basis.budget",
    "gate.k_scale",
)
"""The settings that are changed most often: shown on top. All others are folded away by section."""


NOT_HERE = ("rollouts.engine",)
"""A page does not choose which server gets requests, with a key from this machine's environment; a base keeps its own."""


class Field(NamedTuple):
    """One setting as a form shows it."""

    key: str
    """Dotted key, as ``--set`` takes it."""
    kind: Kind
    help: str
    optional: bool
    """Empty means ``None``."""
    low: float | None
    high: float | None
    options: tuple[str, ...]

    @property
    def section(self) -> str:
        """The section it belongs to."""
        return self.key.partition(".")[0] if "." in self.key else GENERAL


def fields() -> list[Field]:
    """Every setting that a page may change, in the order of the schema."""
    schema = RunConfig.model_json_schema()
    settings: list[Field] = []
    for name, rule in schema["properties"].items():
        if "$ref" in rule:
            section = schema["$defs"][rule["$ref"].rpartition("/")[2]]
            keys = {key: inner for key, inner in section["properties"].items() if f"{name}.{key}" not in NOT_HERE}
            settings += [_field(f"{name}.{key}", inner) for key, inner in keys.items()]
        else:
            settings.append(_field(name, rule))
    return settings


def _field(key: str, rule: dict[str, Any]) -> Field:
    """A setting from its JSON schema; one that may be none is ``{"anyOf": [TYPE, {"type": "null"}]}`` there."""
    optional = "anyOf" in rule
    if optional:
        rule = rule | rule["anyOf"][0]
    options = tuple(rule.get("enum", _open_options(key)))
    low, high = rule.get("minimum", rule.get("exclusiveMinimum")), rule.get("maximum")
    return Field(key, _kind(key, rule["type"], options, optional), rule.get("description", ""), optional, low, high, options)


def _kind(key: str, type_: str, options: tuple[str, ...], optional: bool) -> Kind:
    if key == "task.levels":
        return "choices"
    if options:
        return "choice"
    kinds: dict[str, Kind] = {"array": "list", "object": "table", "boolean": "bool", "integer": "int", "number": "float"}
    return kinds.get(type_, "prose" if optional else "line")


def _open_options(key: str) -> tuple[str, ...]:
    """Options of a text setting that are registered elsewhere, so that the schema does not list them."""
    if key == "task.name":
        return tuple(name for name in task_names() if task_spec(name).mine_split)
    return ("auto", *TEMPLATES) if key == "task.template" else ()


def levels_of(task: str) -> tuple[str, ...]:
    """Difficulty levels of a task."""
    return task_spec(task).levels if task in task_names() else ()


def value_of(config: RunConfig, key: str) -> Any:
    """The value of a dotted key, lists as lists."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)  # a dump leaves some keys out at their defaults
    return to_jsonable_python(value)


def shown(field: Field, value: Any) -> Any:
    """The value of a setting as its widget shows it; the inverse of :func:`parsed_value`."""
    if field.kind == "list":
        return "" if value is None else ", ".join(each if isinstance(each, str) else as_text(each) for each in value)
    if field.kind == "table":
        return as_text(value)[1:-1]
    if field.kind == "line":
        return str(value).replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return (value or "") if field.kind == "prose" else value


def parsed_value(field: Field, value: Any) -> Any:
    """A widget's value as the config takes it; not checked yet."""
    if field.kind == "list":
        parts = [part.strip() for part in str(value or "").split(",") if part.strip()]
        return [_item(part) for part in parts] or (None if field.optional else [])
    if field.kind == "table":
        try:
            return tomllib.loads(f"v = {{{value or ''}}}")["v"]
        except (ValueError, RecursionError):
            return value
    if field.kind == "line":
        pieces = str(value or "").split("\\\\")
        return "\\".join(piece.replace("\\n", "\n").replace("\\t", "\t") for piece in pieces)
    if field.kind == "prose":
        return value or None
    if field.kind == "choices":
        return list(value or [])
    return int(value) if field.kind == "int" and value is not None else value


def _item(text: str) -> int | float | str:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def as_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key as a nested mapping, for ``config_from``."""
    data: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (data.setdefault(section, {}) if section else data)[name] = value
    return data


def changed_fields(base: RunConfig, config: RunConfig) -> list[tuple[str, str, str]]:
    """Settings that differ, as (key, before, now)."""
    keys = [field.key for field in fields()]
    before, now = ({key: as_text(value_of(each, key)) for key in keys} for each in (base, config))
    return [(key, before[key], now[key]) for key in keys if before[key] != now[key]]


class Base(NamedTuple):
    """Settings that a new run can start from."""

    label: str
    file: Path | None
    """The experiment file; ``None`` for the settings of a run, which are written to a new file."""
    config: RunConfig
    name: str
    """Default name of the new run."""


def bases(folder: Path, runs: list[Run]) -> tuple[dict[str, Base], list[str]]:
    """Experiment files in ``folder``, then the runs, by label; and one line for each file that cannot be read.

    Other TOML files (sweeps, which have no key in common with a config, latent trainings, and protocols of many runs) are left out.
    """
    found: dict[str, Base] = {}
    broken: list[str] = []
    for file in sorted(folder.glob("*.toml")):
        try:
            keys = set(tomllib.loads(file.read_text(encoding="utf-8")))
            if keys & set(RunConfig.model_fields) and not keys & {"strategy", "run"}:
                found[f"configs/{file.name}"] = Base(f"configs/{file.name}", file, read_config(file), file.stem)
        except (ConfigError, OSError, ValueError, RecursionError) as error:
            broken.append(f"{file}: {error}" if str(file) not in str(error) else str(error))
    for run in runs:
        label = f"run {run.name}" if f"run {run.name}" not in found else f"run {run.name} ({run.path.parent.name})"
        found[label] = Base(label, None, run.config, f"{run.name}-again")
    return found, broken


def arguments(base: Base, config: RunConfig, own_file: Path, out: Path, until: str) -> list[str]:
    """Arguments of ``stir`` that make a run of ``config`` at ``out``.

    Args:
        own_file: where the config is written if the base has no file.
    """
    changes = changes_between(base.config, config) if base.file else left_out(config)
    sets = [word for change in changes for word in ("--set", change)]
    ends = ["--until", until] if until != STAGES[-1] else []
    return ["run", near(base.file or own_file), *sets, "--out", near(out), *ends]


def near(path: Path) -> str:
    """A path relative to the working directory if it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def toml_of(base: Base, config: RunConfig) -> str:
    """The config as a file. A comment on top gives the ``--set`` options for values that TOML cannot hold (none)."""
    missing = "".join(f" --set {change}" for change in left_out(config))
    return (f"# stir run FILE{missing}\n" if missing else "") + f"# from {base.label}\n" + as_toml(config)


def pairs_line(config: RunConfig, measured: RunFacts | None) -> str:
    """How many problems are expected to have both a right and a wrong rollout, without which the library stays empty.

    Args:
        measured: the finished run that the estimate rests on.
    """
    n, k = config.task.n_train, config.rollouts.k
    verdicts: dict[str, list[bool]] = {}
    for (problem, _), rollout in (measured.rollouts if measured else {}).items():
        verdicts.setdefault(problem, []).append(rollout.verdict.correct)
    if measured is None or not verdicts:
        return f"Actions come from problems with both right and wrong rollouts. How many of {n} will have both was never measured."
    share = fmean(_mixed(sum(rights), len(rights), k) for rights in verdicts.values())
    line = (
        f"Actions come from problems with both right and wrong rollouts: about {n * share:.1f} of {n} are expected to have both with "
        f"{k} rollouts each ({share:.0%}, from {len(verdicts)} problems of run {measured.name})."
    )
    return line if n * share >= FEW else f"{line} The library may stay empty: take more problems or more rollouts."


FEW = 3
"""Expected problems with both outcomes below which a page warns of an empty library."""


def _mixed(right: int, n: int, k: int) -> float:
    """Probability that ``k`` of ``n`` recorded rollouts are of both outcomes; beyond ``n``, that ``k`` draws at their rate are."""
    if k <= n:
        return 1 - (comb(right, k) + comb(n - right, k)) / comb(n, k)
    return 1 - (right / n) ** k - (1 - right / n) ** k


HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def model_refusal(name: str, offered: Sequence[str]) -> str | None:
    """Why a page refuses a model of that name, in one line; ``None`` if it is accepted."""
    if name in offered:
        return None
    if not HUB.fullmatch(name) or ".." in name or name.lower().endswith(".gguf"):
        return f"model {name!r} is not a hub name: write ORG/MODEL, or put a .gguf file into the folder that STIR_MODELS names"
    if Path(name).exists():
        return f"model {name!r} is a folder or file here, and a page takes no paths: choose an offered model, or use the command line"
    return None


_TIMELINE = ("stage", "start", "end", "seconds", "made", "tokens", "going")
LOADING = "loading"
"""Name of the time before the first stage: imports and loading of the model."""


class Pace(NamedTuple):
    """Progress of the current stage."""

    share: float
    """In [0, 1]."""
    text: str


def pace(lines: list[ProgressLine]) -> Pace | None:
    """Progress and speed of the current stage; ``None`` before the first stage."""
    last = lines[-1] if lines else None
    if last is None or last.stage is None:
        return None
    first = next(line for line in lines if line.stage == last.stage)
    parts = [f"{last.stage}: {last.done} of {last.total} {last.unit}"]
    if last.tokens and last.seconds > 0:
        parts += [f"{last.tokens:,} tokens", f"{last.tokens / last.seconds:.1f} tokens/s"]
    fresh = last.done - first.done
    if fresh > 0 and last.done < last.total and not last.last:
        parts.append(f"about {words(last.seconds * (last.total - last.done) / fresh)} left at this pace")
    return Pace(min(1.0, last.done / last.total) if last.total else 1.0, " · ".join(parts))


def words(seconds: float) -> str:
    """A duration, rounded to seconds, minutes or tenths of an hour."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def timeline(lines: list[ProgressLine], started: float, now: float) -> pd.DataFrame:
    """One row per stage of this attempt: start and end in seconds since the start of the attempt, and what was done.

    A stage ends when the next one begins; the last one ends with the last line of a job that has ended, else ``now``.
    """
    if not lines:
        return pd.DataFrame(columns=list(_TIMELINE))
    latest = {line.stage or LOADING: line for line in lines}
    begun = {line.stage or LOADING: line.at for line in reversed(lines)} | {LOADING: started}
    starts = [begun[stage] for stage in latest]
    ends = [*starts[1:], lines[-1].at if lines[-1].last else now]
    rows: list[tuple[object, ...]] = []
    for (stage, line), start, end in zip(latest.items(), starts, ends, strict=True):
        made = "imports and the model" if stage == LOADING else f"{line.done} of {line.total} {line.unit}"
        times = (max(0.0, start - started), max(0.0, end - started), max(0.0, end - start))
        rows.append((stage, *times, made, line.tokens or None, line is lines[-1] and not line.last))
    return pd.DataFrame(rows, columns=list(_TIMELINE))


def kept_stages(finished: tuple[str, ...], lines: list[ProgressLine]) -> list[str]:
    """Stages that were finished before this attempt."""
    made = {line.stage for line in lines}
    return [stage for stage in STAGES if stage in finished and stage not in made]
