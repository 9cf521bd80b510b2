"""Flags of the command line, derived from the fields of a section, which declare type, choices and help."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from stir_core.config import RunConfig, Section, SectionT, section_from
from stir_core.errors import ConfigError
from stir_core.requests import ANSWERING, ExecutorRequest, flag_of

if TYPE_CHECKING:
    from stir_core.models.workers import WorkerPool


def add_fields(parser: argparse.ArgumentParser, section: type[Section], only: Sequence[str] = ()) -> None:
    """Add a flag for each field of a section, or for some of them; :func:`asked` reads them."""
    for name in only or section.model_fields:
        add_field(parser, name, section.model_fields[name])


def add_answering(parser: argparse.ArgumentParser) -> None:
    """Add flags for the settings of a steered answer; :func:`answering` reads them."""
    for name, key in ANSWERING.items():
        section, field = key.split(".")
        part: Any = getattr(RunConfig(), section)
        add_field(parser, name, type(part).model_fields[field], default="the run's own")


def add_field(parser: argparse.ArgumentParser, name: str, field: FieldInfo, *, default: Any = None) -> None:
    """Add one flag. Without it the parsed arguments have no such value, so that the section's default applies."""
    kind, flag = _plain(field.annotation), flag_of(name)
    default = field.default if default is None else default
    text = f"{field.description or ''}".removesuffix(".").replace("%", "%%")
    if isinstance(field.default, bool):
        switch, action = (f"--no-{name}", "store_false") if field.default else (flag, "store_true")
        text = f"do not {text[0].lower()}{text[1:]}" if field.default else text
        parser.add_argument(switch, dest=name, action=action, default=argparse.SUPPRESS, help=text)
        return
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    more: dict[str, Any] = {"help": text if default is None else f"{text} (default: {shown})", "default": argparse.SUPPRESS}
    if get_origin(kind) is Literal:
        more["choices"] = get_args(kind)
    elif get_origin(kind) is tuple:
        more |= {"nargs": "+", "metavar": name.removesuffix("s").upper(), "type": _plain(get_args(kind)[0])}
    else:
        more["type"] = kind
    parser.add_argument(flag, **more)


def asked(arguments: argparse.Namespace, section: type[SectionT]) -> SectionT:
    """The section with the values of the command line.

    Raises:
        ConfigError: a value out of range, in one line that names its flag.
    """
    given = {name: value for name, value in vars(arguments).items() if name in section.model_fields}
    return section_from(section, given, {name: flag_of(name) for name in given})


def answering(arguments: argparse.Namespace, config: RunConfig) -> RunConfig:
    """The config with the answer settings of the command line; without such settings, the same object.

    Raises:
        ConfigError: a value out of range, in one line that names its flag.
    """
    names = [name for name in ANSWERING if name in arguments]
    if not names:
        return config
    changed = config.model_dump()
    for name in names:
        section, field = ANSWERING[name].split(".")
        changed[section][field] = getattr(arguments, name)
    return section_from(RunConfig, changed, {key: flag_of(name) for name, key in ANSWERING.items()})


@contextmanager
def executing(arguments: argparse.Namespace) -> "Iterator[WorkerPool | None]":
    """The workers that a command asks for (:class:`~stir_core.requests.ExecutorRequest`); ``None``: its own process decodes.

    Raises:
        ConfigError: ray is not installed, or its settings come without it.
    """
    settings = asked(arguments, ExecutorRequest)
    if settings.executor == "ray":
        from stir_core.models.cluster import pool_of

        with pool_of(settings.address, settings.workers) as pool:
            yield pool
        return
    for name in ("address", "workers"):
        if getattr(settings, name) is not None:
            raise ConfigError(f"--{name} is for --executor ray: add that, or leave --{name} out")
    yield None


def _plain(kind: Any) -> Any:
    """A type without its bounds and without ``None``."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    return kind
