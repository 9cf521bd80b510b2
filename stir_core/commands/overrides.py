"""Changing a config key by key, as ``--set section.key=value`` does."""

import tomllib
from typing import Any

from stir_core.config import RunConfig, config_from
from stir_core.errors import ConfigError


def overridden(config: RunConfig, changes: list[str]) -> RunConfig:
    """The config with ``section.key=value`` changes; values are written as in TOML, bare words are text."""
    if not changes:
        return config
    data = config.model_dump(mode="json")
    for change in changes:
        path, separator, text = change.partition("=")
        if not separator or not path:
            raise ConfigError(f'--set {change!r} is not KEY=VALUE: write e.g. --set task.name="gsm8k"')
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
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
