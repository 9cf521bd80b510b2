"""Changing a config key by key, as ``--set section.key=value`` does, and writing the difference of two configs in that form."""

import argparse
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from stir_core.config import STAGES, RunConfig, Section, config_from
from stir_core.errors import ConfigError

NONE = "none"
"""The bare word for no value, which TOML cannot express; the text "none" is written with quotes."""


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Arguments that name an experiment: its file, the last stage, and :func:`overridden` keys."""
    parser.add_argument("config", type=Path, help="experiment file (TOML)")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage to make")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a config key, e.g. --set task.n_train=8")


def overridden(config: RunConfig, changes: list[str]) -> RunConfig:
    """The config with ``section.key=value`` changes. Values are written as in TOML; bare words are text, ``none`` is no value.

    Raises:
        ConfigError: a change that is not KEY=VALUE, or an unusable key or value.
    """
    if not changes:
        return config
    data = config.model_dump(mode="json")
    for change in changes:
        path, value = plain_value(change)
        *sections, key = path.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                known = ", ".join(name for name, value in config if isinstance(value, Section))
                raise ConfigError(f"--set {change!r}: {section} is not a section of the config: take one of {known}")
        place[key] = value
    return config_from(data)


def plain_value(change: str) -> tuple[str, Any]:
    """The key and the value of ``KEY=VALUE``; the value is written as in TOML, bare words are text, ``none`` is no value.

    Raises:
        ConfigError: not of that form.
    """
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise ConfigError(f'--set {change!r} is not KEY=VALUE: write e.g. --set task.name="gsm8k"')
    try:
        return key, None if text == NONE else tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return key, text


def changes_between(base: RunConfig, config: RunConfig) -> list[str]:
    """The ``--set`` changes from ``base`` to ``config``: ``overridden(base, changes_between(base, config)) == config``."""
    before, after = base.model_dump(mode="json"), config.model_dump(mode="json")
    changes: list[str] = []
    for name, value in after.items():
        if not isinstance(value, dict):
            changes += [f"{name}={as_text(value)}"] if as_text(value) != as_text(before[name]) else []
            continue
        written = {key: as_text(new) for key, new in value.items()}  # as text: layer 1 is an index and 1.0 a ratio
        changes += [f"{name}.{key}={text}" for key, text in written.items() if text != as_text(before[name][key])]
    return changes


def as_text(value: Any) -> str:
    """One value in the form that ``--set`` reads: TOML, or the bare word ``none``."""
    if value is None:
        return NONE
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_text(each) for each in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {as_text(each)}' for key, each in value.items())}}}"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")


def as_toml(config: RunConfig) -> str:
    """The whole config as a TOML file. ``None`` values are left out, so they come back as their defaults: see :func:`left_out`."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def left_out(config: RunConfig) -> list[str]:
    """The ``--set`` changes that :func:`as_toml` cannot express: values that are ``None`` where the default is not."""
    return changes_between(config_from(tomllib.loads(as_toml(config))), config)
