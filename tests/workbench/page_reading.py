"""Reading what a page drew."""

import json
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[2]
OWN = tuple(f"{ROOT}/{folder}/" for folder in ("workbench", "pages", "stir_core"))
MOST_CALLS = 200_000
"""Calls of own functions that drawing a page of 5,000 entries again may take once its data is cached."""


def leaves(block: Any) -> list[Any]:
    """All elements of a page or a block, in order."""
    found = []
    for child in block.children.values():
        found += leaves(child) if hasattr(child, "children") else [child]
    return found


def components(app: AppTest) -> list[dict[str, Any]]:
    """What the page's own components were given, those without data left out."""
    return [json.loads(e.proto.json) for e in leaves(app.main) if e.type == "bidi_component" and e.proto.json]


def strips(app: AppTest) -> list[dict[str, Any]]:
    """What the text strips were given to draw."""
    return [data for data in components(app) if "segments" in data]


def texts(app: AppTest) -> str:
    """All captions, warnings and the like in one string, without escapes."""
    found = [*app.header, *app.caption, *app.markdown, *app.warning, *app.error, *app.info]
    return "\n".join(element.value for element in found).replace("\\", "")


def clean(app: AppTest) -> AppTest:
    """The page, which must show no error."""
    assert not app.exception, app.exception[0].value
    assert not app.error, app.error[0].value
    return app


def calls_of_a_rerun(app: AppTest) -> int:
    """Draw the page again and count the calls of the project's own functions: work, measured the same on every machine."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(OWN)

    threading.setprofile(count)  # the page runs in a thread of its own, which takes the function over as it starts
    try:
        clean(app.run())
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
    assert calls
    return calls
