"""Flags of the command line, made of the fields of a section: type, choices and help stand there and nowhere else."""

import argparse
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from stir_core.config import RunConfig, Section, SectionT, section_from, with_changes
from stir_core.requests import ANSWERING


def add_fields(parser: argparse.ArgumentParser, section: type[Section], only: Sequence[str] = ()) -> None:
    """A flag for each field of a section, or for some of them; :func:`asked` reads them back."""
    for name in only or section.model_fields:
        add_field(parser, name, section.model_fields[name])


def add_answering(parser: argparse.ArgumentParser) -> None:
    """Flags for the settings that an answer is steered with; :func:`answering` reads them back."""
    for name, key in ANSWERING.items():
        section, field = key.split(".")
        part: Any = getattr(RunConfig(), section)
        add_field(parser, name, type(part).model_fields[field], default="the run's own")


def add_field(parser: argparse.ArgumentParser, name: str, field: FieldInfo, *, default: Any = None) -> None:
    """One flag. Where it is not given, the parsed arguments lack it, so that the section's own default stands."""
    kind, flag = _plain(field.annotation), f"--{name.replace('_', '-')}"
    default = field.default if default is None else default
    text = f"{field.description or ''}".removesuffix(".").replace("%", "%%")
    if isinstance(field.default, bool):
        told, action = (f"--no-{name}", "store_false") if field.default else (flag, "store_true")
        parser.add_argument(
            told, dest=name, action=action, default=argparse.SUPPRESS, help=f"do not {text[0].lower()}{text[1:]}" if field.default else text
        )
        return
    shown = " ".join(default) if isinstance(default, tuple) else default
    more: dict[str, Any] = {"help": text if default is None else f"{text} (default: {shown})", "default": argparse.SUPPRESS}
    if get_origin(kind) is Literal:
        more["choices"] = get_args(kind)
    elif get_origin(kind) is tuple:
        more |= {"nargs": "+", "metavar": name.removesuffix("s").upper()}
    else:
        more["type"] = kind
    parser.add_argument(flag, **more)


def asked(arguments: argparse.Namespace, section: type[SectionT]) -> SectionT:
    """What was asked for on the command line.

    Raises:
        ConfigError: a value that cannot be, in one line.
    """
    return section_from(section, {name: value for name, value in vars(arguments).items() if name in section.model_fields})


def answering(arguments: argparse.Namespace, config: RunConfig) -> RunConfig:
    """The config with the settings that an answer was asked to be steered with; the config itself where none was.

    Raises:
        ConfigError: a value that cannot be, in one line.
    """
    changes: dict[str, dict[str, Any]] = {}
    for name in ANSWERING.keys() & vars(arguments).keys():
        section, field = ANSWERING[name].split(".")
        changes.setdefault(section, {})[field] = getattr(arguments, name)
    return with_changes(config, **changes) if changes else config


def _plain(kind: Any) -> Any:
    """A type without its bounds and without ``None``."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    return kind
