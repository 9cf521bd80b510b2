"""Which models a page may name: those that are offered, and hub names. Refuses paths that somebody typed."""

import re
from collections.abc import Sequence
from pathlib import Path

HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def refusal(name: str, offered: Sequence[str]) -> str | None:
    """Why a model of that name is not taken from a page, in one line; ``None`` when it is."""
    if name in offered:
        return None
    if not HUB.fullmatch(name) or ".." in name or name.lower().endswith(".gguf"):
        return f"model {name!r} is not a hub name: write ORG/MODEL, or put a .gguf file into the folder that STIR_MODELS names"
    if Path(name).exists():
        return f"model {name!r} is a folder or file here, and a page takes no paths: choose an offered model, or use the command line"
    return None
