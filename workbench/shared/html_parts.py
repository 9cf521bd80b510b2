"""HTML files that open offline: the one shell of all of them, and the parts that their sections are made of. All text is escaped."""

import hashlib
from base64 import b64encode
from html import escape
from typing import NamedTuple

import numpy as np
import pandas as pd


class Prose(NamedTuple):
    """A sentence or two, set as a paragraph; plain text is set as it stands, in a frame."""

    text: str


class Picture(NamedTuple):
    """A figure with its caption."""

    svg: str
    alt: str
    """What it shows, for those who do not see it."""
    caption: str


Part = str | Prose | Picture | pd.DataFrame
"""Text as it stands, a paragraph, a figure, or a table."""


def html_file(title: str, body: str, *, style: str, script: str = "", pictures: bool = False) -> str:
    """One HTML document that opens offline, and runs and loads nothing but this script and this style.

    Args:
        title: any text.
        body: HTML, in which all text is escaped.
        pictures: whether it shows pictures, which lie in the file itself.
    """
    scripts = f"script-src {_hash(script)}; " if script else ""
    images = "img-src data:; " if pictures else ""
    policy = f"default-src 'none'; {scripts}{images}style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{body}\n" + (f"<script>{script}</script>" if script else "") + "</body></html>\n"
    )


def part_html(part: Part) -> str:
    """One part of a section."""
    if isinstance(part, Picture):
        data = b64encode(part.svg.encode("utf-8")).decode()  # as a picture, nothing in it can run or be styled
        picture = f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(part.alt)}">'
        return f"<figure>{picture}<figcaption>{escape(part.caption)}</figcaption></figure>"
    if isinstance(part, Prose):
        return f"<p>{escape(part.text)}</p>"
    if isinstance(part, str):
        return f"<pre>{escape(part)}</pre>"
    if part.empty:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(str(name))}</th>" for name in part.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in words_of(part))
    return f'<div class="scroll"><table><tr>{head}</tr>\n{rows}</table></div>'


PARTS_CSS = """
:root { color-scheme: light dark; }
body { margin: 1.2rem auto; max-width: 70rem; padding: 0 1.2rem; font: 14px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1.2rem 0 0.3rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 8px 10px; border-radius: 6px; border: 1px solid #8886; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85rem; }
td, th { text-align: left; vertical-align: top; padding: 0.15rem 0.8rem 0.15rem 0; border-bottom: 1px solid #8884; }
td, th { overflow-wrap: normal; } td { max-width: 30rem; }
figure { margin: 0.8rem 0; } figcaption { font-size: 0.85rem; }
img { max-width: 100%; height: auto; background: white; border-radius: 6px; }
"""


def words_of(table: pd.DataFrame) -> list[list[str]]:
    """A table's cells as text: three decimals, and a dash for an empty cell."""
    return [[_word(cell) for cell in row] for row in table.itertuples(index=False, name=None)]


def _word(cell: object) -> str:
    if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
        return "—"
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
