"""Changing a config key by key, as ``--set section.key=value`` does, and writing down which keys two configs differ in."""

import tomllib
from typing import Any

import tomli_w

from stir_core.config import RunConfig, config_from
from stir_core.errors import ConfigError

NONE = "none"
"""The bare word for a value that is left out (TOML has no word for it); the text "none" is written with quotes."""


def overridden(config: RunConfig, changes: list[str]) -> RunConfig:
    """The config with ``section.key=value`` changes; values are written as in TOML, bare words are text, ``none`` is no value."""
    if not changes:
        return config
    data = config.model_dump(mode="json")
    for change in changes:
        path, separator, text = change.partition("=")
        if not separator or not path:
            raise ConfigError(f'--set {change!r} is not KEY=VALUE: write e.g. --set task.name="gsm8k"')
        try:
            value: Any = None if text == NONE else tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *sections, key = path.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {change!r}: {section} is not a section of the config")
        place[key] = value
    return config_from(data)


def changes_between(base: RunConfig, config: RunConfig) -> list[str]:
    """What ``--set`` must say to make ``config`` of ``base``; ``overridden(base, changes_between(base, config)) == config``."""
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
    """One value as ``--set`` reads it: TOML, or the bare word ``none``."""
    if value is None:
        return NONE
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_text(each) for each in value)}]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")


def as_toml(config: RunConfig) -> str:
    """The whole config as a TOML file. A value that is ``None`` is left out, so it comes back as its default: see :func:`left_out`."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def left_out(config: RunConfig) -> list[str]:
    """What :func:`as_toml` cannot say, as ``--set`` changes: values that are ``None`` where the default is not."""
    return changes_between(config_from(tomllib.loads(as_toml(config))), config)
