"""Latent strategies by name."""

import pkgutil
from importlib import import_module

from stir_core.errors import ConfigError
from stir_core.latent.frame import Reasoner

_FOLDER = "stir_core.latent.strategies"


def strategy_names() -> tuple[str, ...]:
    """Names of all strategies: the files of the folder. No strategy is imported."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(import_module(_FOLDER).__path__)))


def strategy(name: str) -> type[Reasoner]:
    """The strategy of that name.

    Raises:
        ConfigError: no file of that name, or it defines no strategy of that name.
    """
    if name not in strategy_names():
        raise ConfigError(f"unknown latent strategy {name!r}: take one of {', '.join(strategy_names())}")
    values = vars(import_module(f"{_FOLDER}.{name}")).values()
    found = next(
        (value for value in values if isinstance(value, type) and issubclass(value, Reasoner) and vars(value).get("name") == name), None
    )
    if found is None:
        raise ConfigError(f"{_FOLDER}.{name} defines no subclass of Reasoner with name = {name!r}: add one")
    return found
