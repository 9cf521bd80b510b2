"""Parse a documentation page: its code blocks, and the command lines in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

NOT_RUN = re.compile(r"<!-- not run: (\S.*?) -->")
"""Marks the next Python block as not run, with the reason."""
FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})\s*([\w+-]*)(.*)$")
INDENTED = re.compile(r"^(?: {4,}|\t)(?:\$ )?(stir .*)$")
INLINE = re.compile(r"(?<!`)`(stir [^`]+)`(?!`)")
COMMENT = re.compile(r"(?:^|\s)#(?=\s|$)")
SHELL = ("sh", "bash", "shell", "console")
ENDS = ("&&", "||", "|", ";")


class Block(NamedTuple):
    """One fenced block."""

    page: str
    """Path in the repository."""
    line: int
    """Of the block's first line of code, from 1."""
    language: str
    text: str
    not_run: str | None
    """Why it is not run, where the page says so."""


class Line(NamedTuple):
    """One command line of a page, as words; piped or chained commands are separate lines."""

    page: str
    line: int
    words: tuple[str, ...]


def pages() -> list[Path]:
    """Every page whose code is checked: README.md, CONTRIBUTING.md and all of docs/."""
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
    return [path for path in named if path.exists()] + sorted((ROOT / "docs").rglob("*.md"))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page.

    Raises:
        ValueError: a fence that never ends.
    """
    shown = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    parsed: list[Block] = []
    opened: tuple[str, str, str, int, str | None] | None = None
    body: list[str] = []
    reason: str | None = None
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        mark = FENCE.match(line)
        if opened is None and mark:
            opened, body = (mark[1], mark[2], mark[3], number + 1, reason), []
        elif opened is not None and mark and mark[2].startswith(opened[1]) and not mark[3] and not mark[4].strip():
            indent, _, language, first, why = opened
            text = "\n".join(each.removeprefix(indent) for each in body) + "\n"
            parsed.append(Block(shown, first, language, text, why))
            opened = None
        elif opened is not None:
            body.append(line)
        if line.strip():
            said = NOT_RUN.fullmatch(line.strip())
            reason = said[1] if said else None
    if opened is not None:
        raise ValueError(f"{shown}:{opened[3] - 1} opens a block that never ends")
    return parsed


def command_lines(page: Path) -> Iterator[Line]:
    """Every command line of a page: in shell blocks, and indented ``stir ...`` lines outside blocks."""
    inside: set[int] = set()
    shown = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    for block in blocks(page):
        rows = block.text.splitlines()
        inside |= set(range(block.line, block.line + len(rows)))
        if block.language not in SHELL:
            continue
        prompted = any(row.startswith("$ ") for row in rows)
        waiting, first = "", block.line
        for number, row in enumerate(rows, start=block.line):
            if prompted and not waiting and not row.startswith("$ "):
                continue  # output of the command
            first = first if waiting else number
            waiting += row.removeprefix("$ ")
            if waiting.endswith("\\"):
                waiting = waiting[:-1] + " "
                continue
            yield from chained(shown, first, waiting)
            waiting = ""
    for number, row in enumerate(page.read_text("utf-8").splitlines(), start=1):
        if number not in inside and (match := INDENTED.match(row)):
            yield from chained(shown, number, match[1])


def inline_commands(page: Path) -> Iterator[Line]:
    """Every inline ``stir ...`` in the text, outside blocks."""
    inside = {number for block in blocks(page) for number in range(block.line, block.line + block.text.count("\n"))}
    shown = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    for number, row in enumerate(page.read_text("utf-8").splitlines(), start=1):
        if number not in inside:
            yield from (Line(shown, number, tuple(match[1].split())) for match in INLINE.finditer(row))


def chained(page: str, number: int, text: str) -> Iterator[Line]:
    """Split a shell line into its commands, without comments, redirections and variable assignments."""
    words: list[str] = []
    for word in [*shlex.split(without_comment(text)), ";"]:
        if word not in ENDS and not word.endswith(";"):
            words.append(word)
            continue
        words += [] if word in ENDS else [word.removesuffix(";")]
        plain = without_redirections(words)
        while plain and re.fullmatch(r"[A-Z_]+=.*", plain[0]):
            plain = plain[1:]
        if plain:
            yield Line(page, number, tuple(plain))
        words = []


def without_comment(text: str) -> str:
    """A shell line without its comment; a # inside quotes does not start one."""
    for mark in COMMENT.finditer(text):
        before = text[: mark.start()]
        if before.count('"') % 2 == 0 and before.count("'") % 2 == 0:
            return before
    return text


def without_redirections(words: list[str]) -> list[str]:
    """Words without ``> file``, ``2>&1``, ``< file`` and a closing ``&``."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or re.fullmatch(r"\d?>&\d|&", word):
            skip = False
        elif re.fullmatch(r"\d?>{1,2}|<", word):
            skip = True
        else:
            kept.append(word)
    return kept
