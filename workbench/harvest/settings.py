"""The config's own schema as fields of a form: kinds, bounds, choices and help come from ``stir_core.config``; nothing is repeated here.

What a user types becomes a plain mapping again, which the config's own rules judge. Refuses nothing by itself.
"""

import types
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types as bounds
from pydantic import BaseModel

from stir_core.commands.overrides import as_text
from stir_core.config import SELECTORS, RunConfig
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


def typed(field: Field, value: Any) -> Any:
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


def changes(base: RunConfig, config: RunConfig) -> list[tuple[str, str, str]]:
    """What differs, as (key, before, now)."""
    keys = [field.key for field in fields()]
    before, now = ({key: as_text(value_of(each, key)) for key in keys} for each in (base, config))
    return [(key, before[key], now[key]) for key in keys if before[key] != now[key]]
