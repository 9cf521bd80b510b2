"""Reading experiment files: one TOML file is one reproducible experiment."""

import tomllib
from pathlib import Path

from stir_core.config import RunConfig, SectionT, section_from
from stir_core.errors import ConfigError


def read_config(path: Path, kind: type[SectionT] = RunConfig) -> SectionT:
    """Read and validate a TOML config, of a run or of another kind.

    Raises:
        ConfigError: the file is missing or not TOML, or a key or value is not usable; the line names the file.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = ", ".join(sorted(str(file) for file in Path("configs").glob("*.toml")))
        remedy = f"configs that are here: {near}" if near else "correct the path; there is no folder configs here"
        raise ConfigError(f"no config file at {path}: {remedy}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder: name a config file, such as those in configs") from None
    except (ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
    if not data and not path.is_file():  # /dev/null; an empty file is every default
        raise ConfigError(f"{path} is no file and sets nothing: name a config, such as those in configs")
    try:
        return section_from(kind, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
