"""What the Harvest page offers and says: settings as form fields, what a run can start from, model names, and how a job stands.

Kinds, bounds, choices and help of a field come from ``stir_core.config``; what a user types is a
plain mapping, which the config's own rules judge.
"""

import re
import shlex
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types as bounds
import pandas as pd
from pydantic import BaseModel

from stir_core.commands.overrides import as_text, as_toml, changes_between, left_out
from stir_core.config import SELECTORS, STAGES, RunConfig
from stir_core.errors import ConfigError
from stir_core.store.configs import read_config
from stir_core.store.progress import ProgressLine
from stir_core.store.runs import Run
from stir_core.tasks import task_names, task_spec
from stir_core.tasks.prompts import TEMPLATES

Kind = Literal["int", "float", "choice", "choices", "bool", "line", "prose", "list"]
"""What a field is drawn as; ``line`` is text in one line with ``\\n`` for a line break, ``prose`` is text as it is."""

GENERAL = ""
"""The section of keys that stand outside all sections."""
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
"""The fields that are changed most often; all others are folded away by section."""


class Field(NamedTuple):
    """One setting as a form shows it."""

    key: str
    """Dotted, as ``--set`` takes it."""
    kind: Kind
    help: str
    optional: bool
    """Empty means none."""
    low: float | None
    high: float | None
    options: tuple[str, ...]

    @property
    def section(self) -> str:
        """The section it belongs to."""
        return self.key.partition(".")[0] if "." in self.key else GENERAL


def fields() -> list[Field]:
    """Every setting, in the order of the schema."""
    found: list[Field] = []
    for name, info in RunConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += [_field(f"{name}.{key}", inner) for key, inner in info.annotation.model_fields.items()]
        else:
            found.append(_field(name, info))
    return found


def _field(key: str, info: Any) -> Field:
    annotation, rules, optional = info.annotation, list(info.metadata), False
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [each for each in get_args(annotation) if each is not type(None)]
        optional = len(inner) < len(get_args(annotation))
        annotation = inner[0] if len(inner) == 1 else annotation
    if hasattr(annotation, "__metadata__"):  # Annotated inside a union keeps its own rules
        for rule in annotation.__metadata__:
            rules += getattr(rule, "metadata", [rule])
        annotation = get_args(annotation)[0]
    low = next((float(rule.ge) for rule in rules if isinstance(rule, bounds.Ge)), None)  # pyright: ignore[reportArgumentType]
    low = next((float(rule.gt) for rule in rules if isinstance(rule, bounds.Gt)), low)  # pyright: ignore[reportArgumentType]
    high = next((float(rule.le) for rule in rules if isinstance(rule, bounds.Le)), None)  # pyright: ignore[reportArgumentType]
    options = tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else _named(key)
    return Field(key, _kind(key, annotation, options, optional), info.description or "", optional, low, high, options)


def _kind(key: str, annotation: Any, options: tuple[str, ...], optional: bool) -> Kind:
    if get_origin(annotation) is tuple:
        return "choices" if key == "task.levels" else "list"
    if options:
        return "choice"
    plain: dict[Any, Kind] = {bool: "bool", int: "int", float: "float"}
    return plain.get(annotation, "prose" if optional else "line")


def _named(key: str) -> tuple[str, ...]:
    """Choices that the schema leaves open because other rooms know them."""
    if key == "task.name":
        return tuple(name for name in task_names() if task_spec(name).mine_split)
    return {"task.template": ("auto", *TEMPLATES), "basis.selector": tuple(SELECTORS)}.get(key, ())


def levels_of(task: str) -> tuple[str, ...]:
    """Difficulty levels of a task."""
    return task_spec(task).levels if task in task_names() else ()


def value_of(config: RunConfig, key: str) -> Any:
    """The value of a dotted key, lists as lists."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def shown(field: Field, value: Any) -> Any:
    """A value as its widget holds it."""
    if field.kind == "list":
        return "" if value is None else ", ".join(each if isinstance(each, str) else as_text(each) for each in value)
    if field.kind == "line":
        return str(value).replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return (value or "") if field.kind == "prose" else value


def parsed_value(field: Field, value: Any) -> Any:
    """What a widget holds as a value of the config; the config judges it."""
    if field.kind == "list":
        parts = [part.strip() for part in str(value or "").split(",") if part.strip()]
        return [_item(part) for part in parts] or (None if field.optional else [])
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
    """Values by dotted key as the nested mapping that the config is made of."""
    data: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (data.setdefault(section, {}) if section else data)[name] = value
    return data


def changed_fields(base: RunConfig, config: RunConfig) -> list[tuple[str, str, str]]:
    """What differs, as (key, before, now)."""
    keys = [field.key for field in fields()]
    before, now = ({key: as_text(value_of(each, key)) for key in keys} for each in (base, config))
    return [(key, before[key], now[key]) for key in keys if before[key] != now[key]]


class Base(NamedTuple):
    """Settings to start from."""

    label: str
    file: Path | None
    """The experiment file; ``None``: they are a run's, and a new run gets a file of its own."""
    config: RunConfig
    name: str
    """What a run of it is called unless another name is given."""


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
    """What follows ``stir`` on the command line to make a run of ``config`` at ``out``.

    Args:
        own_file: where the config will lie if the base has no file.
    """
    changes = changes_between(base.config, config) if base.file else left_out(config)
    sets = [word for change in changes for word in ("--set", change)]
    ends = ["--until", until] if until != STAGES[-1] else []
    return ["run", near(base.file or own_file), *sets, "--out", near(out), *ends]


def typed_command(words: list[str]) -> str:
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


HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def model_refusal(name: str, offered: Sequence[str]) -> str | None:
    """Why a model of that name is not taken from a page, in one line; ``None`` when it is."""
    if name in offered:
        return None
    if not HUB.fullmatch(name) or ".." in name or name.lower().endswith(".gguf"):
        return f"model {name!r} is not a hub name: write ORG/MODEL, or put a .gguf file into the folder that STIR_MODELS names"
    if Path(name).exists():
        return f"model {name!r} is a folder or file here, and a page takes no paths: choose an offered model, or use the command line"
    return None


_TIMELINE = ("stage", "start", "end", "seconds", "made", "tokens", "going")
LOADING = "loading"
"""Before the first stage counts anything: imports and the model."""


class Pace(NamedTuple):
    """How the current stage goes."""

    share: float
    """In [0, 1]."""
    text: str


def pace(lines: list[ProgressLine]) -> Pace | None:
    """The current stage in words; ``None`` before there is anything to count."""
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
    """A duration in two figures or so."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def timeline(lines: list[ProgressLine], started: float, now: float) -> pd.DataFrame:
    """One row a stage of this attempt: when it began and ended, in seconds since the start, and how far it came.

    A stage ends where the next one begins, the last one with the job's last word, or now.
    """
    if not lines:
        return pd.DataFrame(columns=list(_TIMELINE))
    begun: dict[str, ProgressLine] = {}
    latest: dict[str, ProgressLine] = {}
    for line in lines:
        stage = line.stage or LOADING
        begun.setdefault(stage, line)
        latest[stage] = line
    ended = lines[-1].at if lines[-1].last else now
    starts = [started if stage == LOADING else line.at for stage, line in begun.items()]
    ends = [*starts[1:], ended]
    rows: list[dict[str, object]] = [
        {
            "stage": stage,
            "start": max(0.0, start - started),
            "end": max(0.0, end - started),
            "seconds": max(0.0, end - start),
            "made": f"{latest[stage].done} of {latest[stage].total} {latest[stage].unit}" if stage != LOADING else "imports and the model",
            "tokens": latest[stage].tokens or None,
            "going": stage == list(begun)[-1] and not lines[-1].last,
        }
        for stage, start, end in zip(begun, starts, ends, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(_TIMELINE))


def kept_stages(finished: tuple[str, ...], lines: list[ProgressLine]) -> list[str]:
    """Stages that were there before this attempt and that it had nothing to do for."""
    made = {line.stage for line in lines}
    return [stage for stage in STAGES if stage in finished and stage not in made]
