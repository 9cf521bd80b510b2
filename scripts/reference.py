"""Pages of the documentation that are made from the code: the Python interface, commands, settings and methods.

Each function returns a page as Markdown. scripts/docs_hooks.py adds them to the site during the build, so they are never out of date;
tests/docs/test_reference.py checks that they are complete.
"""

import argparse
import ast
import html
import inspect
import itertools
import json
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import stir_core
from stir_core.config import STAGES, RunConfig
from stir_core.stages.stage import stage_digest

GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Open runs and libraries",
        "None of these needs a model; a run's records and raw arrays are read from its folder.",
        ("open_run", "Run", "read_bundle", "to_frame", "open_library", "Curation", "SavedFolder"),
    ),
    (
        "Make a run",
        "Stages I and II; finished results are kept.",
        ("RunConfig", "with_changes", "harvest_run", "select_basis", "load_problems", "Problem"),
    ),
    (
        "Bring your own task and step segmenter",
        "Registered for as long as the process lasts.",
        ("register_task", "TaskSpec", "register_segmenter", "split_steps"),
    ),
    (
        "Load a model and steer it",
        "Stage III.",
        (
            "load_model",
            "LoadedModel",
            "model_folder",
            "open_session",
            "Session",
            "steer",
            "Steered",
            "read_tokens",
            "TokenEvent",
            "StepEvent",
            "TraceEvent",
            "Trace",
        ),
    ),
    ("Decide again", "What another gate, or another decision, would have done.", ("redecide", "what_if", "Change")),
    (
        "Measure",
        "Effects with intervals, doses, and the tokens of a direction.",
        (
            "probe",
            "codebook",
            "calibrate",
            "evaluate_methods",
            "measure_causal",
            "read_causal",
            "CausalStudy",
            "policy",
            "curriculum",
            "measure_impulse",
            "strength_for",
            "degenerates_at",
            "logit_lens",
            "read_action",
            "report_text",
        ),
    ),
    (
        "Ship",
        "A library on another machine.",
        ("export_library", "export_targets", "ExportTarget", "SteeredModel", "serving", "certify_bundle", "Certificate"),
    ),
    ("Errors", "One family; every message is one line with the value and the remedy.", ("StirError",)),
)
"""Public names by purpose; names without a group are shown last."""

WIDTH = 100

ABOUT_API = """\
# Python

    import stir_core as stir

is the whole public surface: the names below, and no others. They are stable; everything else may move between versions, though it is
written to be read. Importing costs nothing: torch and the model libraries are loaded by the calls that need them.
"""

ABOUT_COMMANDS = """\
# Commands

As `stir COMMAND --help` prints them. A command exits with 0 when it is done, with 1 when it was interrupted (`run`,
`eval`, `causal`, `policy`, `critical`, `curriculum` and `sweep` keep finished results, and the same command continues from them), and with
2 when it refuses: one line on the error output names the value and the remedy.

| command | |
|---|---|"""

ABOUT_SETTINGS = """\
# Settings

One TOML file is one reproducible experiment. A key that is left out has its default; a misspelt one is refused with the right word.
`stir run FILE --set section.key=value` changes one for a run, and so does `stir.with_changes` in Python.

*From stage*: the first stage whose results depend on the key. When the key changes, this stage and all later ones have to be made again
(`--redo`); earlier ones stay. "None" changes speed or memory, never a result.
"""

ABOUT_METHODS = """\
# Methods

The methods of `stir eval --methods`, compared on the same problems and budget; see [Does an action do what it says?](../evaluation.md).
A method is written `name` or `name:key=value,key=value`.
"""


# ---- Python ---------------------------------------------------------------------------------------------------------------------------


def api_page() -> str:
    """Every public name with its signature and docstring, which mkdocstrings fills in."""
    grouped = {name for _, _, names in GROUPS for name in names}
    rest = tuple(name for name in stir_core.__all__ if name not in grouped)
    lines = [ABOUT_API]
    for title, about, names in (*GROUPS, ("More", "", rest)):
        shown = [name for name in names if name in stir_core.__all__]
        if shown:
            lines += [f"## {title}", "", about, ""]
        for name in shown:
            lines += [f"::: stir_core.{name}", ""]
    return "\n".join(lines)


# ---- commands -------------------------------------------------------------------------------------------------------------------------


class Command(NamedTuple):
    """One command, or one verb of a command that has several."""

    words: tuple[str, ...]
    parser: argparse.ArgumentParser


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command below a parser, each before its verbs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield Command((*words, name), sub)
                yield from commands(sub, (*words, name))


def cli_page() -> str:
    """Every command as its own ``--help`` prints it."""
    parser = stir_parser()
    found = list(commands(parser))
    lines = [ABOUT_COMMANDS]
    lines += [
        f"| [`stir {each.words[0]}`](#stir-{each.words[0]}) | {cell(each.parser.description or '')} |"
        for each in found
        if len(each.words) == 1
    ]
    for each in found:
        name = " ".join(("stir", *each.words))
        about = [] if len(each.words) > 1 else [each.parser.description or "", ""]
        lines += [
            "",
            f"{'#' * (1 + len(each.words))} {name} {{#{name.replace(' ', '-')}}}",
            "",
            *about,
            "```text",
            help_of(each.parser),
            "```",
        ]
    return "\n".join(lines) + "\n"


def stir_parser() -> argparse.ArgumentParser:
    """The parser that `stir` itself uses."""
    from stir_core import cli

    return cli.command_parser()


def help_of(parser: argparse.ArgumentParser) -> str:
    """The output of ``--help`` on a terminal of 100 columns without colours."""
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=WIDTH)
    vars(parser)["color"] = False  # Python 3.14 colours it otherwise
    return parser.format_help().rstrip()


# ---- settings -------------------------------------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """One config key as the reference shows it."""

    path: str
    type: str
    default: str
    bounds: str
    help: str
    stage: str | None
    """First stage that must be made again when it changes; None: results do not depend on it."""


def config_page() -> str:
    """Every key of a config file."""
    lines = [ABOUT_SETTINGS]
    for title, about, keys in sections():
        lines += [f"## {title} {{#{title.strip('[]').replace(' ', '-')}}}", "", about, ""]
        lines += ["| key | value | default | what | from stage |", "|---|---|---|---|---|"]
        for key in keys:
            value = " or ".join(code(part) if part.startswith('"') else part for part in key.type.split(" | "))
            cells = (code(key.path.split(".")[-1]), " ".join(filter(None, (value, key.bounds))), code(key.default), cell(key.help))
            lines.append(f"| {' | '.join(cells)} | {key.stage or 'none'} |")
        lines.append("")
    return "\n".join(lines)


def sections() -> Iterator[tuple[str, str, list[Key]]]:
    """(title, description, keys) of the top level and of every section, in the file's order."""
    top = {name: field for name, field in RunConfig.model_fields.items() if section_of(field) is None}
    yield "top level", "Before the first section of the file.", [key_of(name, name, field) for name, field in top.items()]
    for name, field in RunConfig.model_fields.items():
        section = section_of(field)
        if section is not None:
            about = (section.__doc__ or "").strip()
            yield f"[{name}]", about, [key_of(f"{name}.{key}", key, inner) for key, inner in section.model_fields.items()]


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field of the whole config holds, or None for a plain key."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def key_of(path: str, name: str, field: FieldInfo) -> Key:
    """One key with its facts from the schema."""
    about = " ".join((field.description or "").split())
    return Key(path, type_text(field.annotation), toml_text(field.default), bounds_text(field), about, first_stage(path))


def first_stage(path: str) -> str | None:
    """The first stage whose digest changes with a key, found by computing the digests."""
    base = RunConfig()
    changed = with_other_value(base, path.split("."))
    return next((stage for stage in STAGES if stage_digest(base, stage) != stage_digest(changed, stage)), None)


def with_other_value(config: Any, path: list[str]) -> Any:
    """A copy of a config with any other value of one key."""
    head, *rest = path
    if rest:
        return config.model_copy(update={head: with_other_value(getattr(config, head), rest)})
    return config.model_copy(update={head: other_value(getattr(config, head), type(config).model_fields[head].annotation)})


def other_value(value: Any, kind: Any) -> Any:
    """Another value of a key's type."""
    if isinstance(value, bool):
        return not value
    if typing.get_origin(kind) is typing.Literal:
        return next(each for each in typing.get_args(kind) if each != value)
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict):
        return {**value, "other": True}
    if isinstance(value, tuple):
        return (*value, *(value[:1] or ("other",)))
    if value is None and any(typing.get_origin(each) is tuple for arg in typing.get_args(kind) for each in (arg, *typing.get_args(arg))):
        return "other", "another"
    if value is None:
        return (
            1
            if int in typing.get_args(kind) or any(typing.get_origin(arg) is typing.Annotated for arg in typing.get_args(kind))
            else "other"
        )
    return value + "other"


def type_text(kind: Any) -> str:
    """A type in the terms of the TOML file: choices are listed, bounds are in another column."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin is typing.Literal:
        return " | ".join(toml_text(each) for each in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(each) for each in arguments)
    if origin is tuple:
        inner = type_text(arguments[0])
        return f"list of ({inner})" if " | " in inner else f"list of {inner}"
    if origin is dict:
        return "table"
    if kind is type(None):
        return "none"
    return {str: "text", int: "integer", float: "number", bool: "true | false"}.get(kind, getattr(kind, "__name__", str(kind)))


def toml_text(value: Any) -> str:
    """A value in the form of the file and of ``--set``."""
    from stir_core.commands.overrides import as_text

    return as_text(value)


def bounds_text(field: FieldInfo) -> str:
    """The bounds of a number in symbols; also for ``number | none``."""
    metadata = list(field.metadata)
    for kind in typing.get_args(field.annotation):
        for extra in typing.get_args(kind)[1:] if typing.get_origin(kind) is typing.Annotated else ():
            metadata += getattr(extra, "metadata", [extra])
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    found = [f"{sign} {getattr(each, name)}" for each in metadata for name, sign in signs if getattr(each, name, None) is not None]
    least = [f"at least {each.min_length} character" for each in metadata if getattr(each, "min_length", None)]
    return ", ".join(found + least)


# ---- methods --------------------------------------------------------------------------------------------------------------------------


def methods_page() -> str:
    """The methods that ``stir eval`` compares."""
    from stir_core.evaluate.decoders.registry import ABLATIONS, DECODERS

    lines = [ABOUT_METHODS]
    for decoder in DECODERS.values():
        lines += [f"## {decoder.name}", "", decoder.about, "", f"Source: {decoder.source}", ""]
        if decoder.parameters:
            lines += ["| parameter | default |", "|---|---|"]
            lines += [f"| {code(key)} | {code(str(value))} |" for key, value in decoder.parameters.items()]
        lines.append("")
    lines += ["## Ablations of `stir` {#ablations}", "", "| ablation | method |", "|---|---|"]
    lines += [f"| {name} | {code(text)} |" for name, text in ABLATIONS.items()]
    return "\n".join(lines) + "\n"


# ---- records --------------------------------------------------------------------------------------------------------------------------

RECORD = re.compile(r"<!-- record: ([\w.]+)\.(\w+) -->")
"""Where a page asks for the fields of a record."""


def with_records(markdown: str) -> str:
    """A page with a table of fields in place of every reference to a record."""
    return RECORD.sub(lambda found: record_table(getattr(import_module(found[1]), found[2])), markdown)


def record_table(record: type[BaseModel]) -> str:
    """The fields of a record with types, defaults and docstrings."""
    about = " ".join((record.__doc__ or "").split("\n\n")[0].split())
    lines = [about, "", "| field | type | what |", "|---|---|---|"]
    docs = field_docs(record)
    for name, field in record.model_fields.items():
        kind, text = docs[name]
        default = "" if field.is_required() or field.default_factory else f"Default {code(json_text(field.default))}."
        lines.append(f"| {code(name)} | {code(kind)} | {' '.join(filter(None, (cell(text).replace('``', '`'), default)))} |")
    return "\n".join(lines)


def field_docs(record: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Type and docstring ("" if there is none) of each field of a class, read from its source."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed(record.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in itertools.zip_longest(body.body, body.body[1:]):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                doc = after.value if isinstance(after, ast.Expr) else None
                text = doc.value if isinstance(doc, ast.Constant) and isinstance(doc.value, str) else ""
                found[node.target.id] = (ast.unparse(node.annotation), inspect.cleandoc(text))
    return found


def json_text(value: Any) -> str:
    """A default in JSON."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain)


# ---- Markdown -------------------------------------------------------------------------------------------------------------------------


def code(text: str) -> str:
    """Text as code inside a table's cell; a bar would end the cell, so it becomes an entity."""
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>" if text else ""


def cell(text: str) -> str:
    """Prose inside a table's cell: Markdown with bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "reference/api.md": api_page,
    "reference/cli.md": cli_page,
    "reference/config.md": config_page,
    "reference/methods.md": methods_page,
}
"""Functions by the page of the site that they make."""


def every_name(lines: Iterable[str]) -> list[str]:
    """The names on an interface page, for mkdocstrings."""
    return [line.removeprefix("::: stir_core.") for line in lines if line.startswith("::: ")]
