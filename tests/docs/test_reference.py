"""The generated reference is complete and agrees with the code."""

import argparse
import json
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

import stir_core
from scripts import reference
from stir_core import deploy
from stir_core.config import STAGES, RunConfig, config_from
from stir_core.deploy.bundle.manifest import MANIFEST, PARTS
from stir_core.errors import ConfigError
from stir_core.evaluate.decoders.registry import DECODERS
from stir_core.records import Record
from stir_core.stages.stage import stage_digest
from stir_core.store.runs import EMBEDDED_RUNS

ROOT = Path(__file__).resolve().parents[2]
FORMATS = (ROOT / "docs" / "reference" / "formats.md").read_text("utf-8")


# ---- Python ---------------------------------------------------------------------------------------------------------------------------


def test_every_public_name_is_shown_once() -> None:
    shown = reference.every_name(reference.api_page().splitlines())
    assert sorted(shown) == sorted(stir_core.__all__)


# ---- commands -------------------------------------------------------------------------------------------------------------------------


def test_every_command_and_option_is_shown() -> None:
    page = reference.cli_page()
    commands = list(reference.commands(reference.stir_parser()))
    assert {"run", "trace", "eval", "serve"} <= {each.words[0] for each in commands}
    for words, parser in commands:
        section = page.split(f"{{#{'-'.join(('stir', *words))}}}", 1)[1].split("\n```\n", 1)[0]
        for action in parser._actions:
            for option in action.option_strings:
                assert option in section, f"stir {' '.join(words)} {option}"


def test_every_argument_has_help() -> None:
    undocumented = [
        f"stir {' '.join(words)}: {action.option_strings or action.dest}"
        for words, parser in reference.commands(reference.stir_parser())
        for action in parser._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert undocumented == []


def test_help_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = reference.cli_page()
    monkeypatch.setenv("COLUMNS", "43")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert reference.cli_page() == before


def test_subcommands_follow_their_command() -> None:
    parser = argparse.ArgumentParser(prog="stir")
    verbs = parser.add_subparsers().add_parser("curate").add_subparsers()
    verbs.add_parser("star")
    assert [each.words for each in reference.commands(parser)] == [("curate",), ("curate", "star")]


# ---- settings -------------------------------------------------------------------------------------------------------------------------


def test_every_key_is_shown_with_its_help() -> None:
    shown = {key.path: key for _, _, keys in reference.sections() for key in keys}
    parts = dict(RunConfig())
    sections = {name: section for name, section in parts.items() if isinstance(section, BaseModel)}
    paths = {f"{name}.{key}" for name, section in sections.items() for key in type(section).model_fields}
    assert set(shown) == paths | (parts.keys() - sections.keys())
    assert [path for path, key in shown.items() if not key.help] == []
    page = reference.config_page()
    assert all(key.help in page for key in shown.values() if "|" not in key.help)


def test_defaults_are_written_as_the_file_takes_them() -> None:
    lines: list[str] = []
    for title, _, keys in reference.sections():
        lines += [title] if title.startswith("[") else []
        lines += [f"{key.path.split('.')[-1]} = {key.default}" for key in keys if key.default != "none"]
    assert config_from(tomllib.loads("\n".join(lines))) == RunConfig()


@pytest.mark.parametrize(
    ("path", "bounds", "value"),
    [
        ("rollouts.top_p", "> 0, ≤ 1", 0),
        ("task.n_train", "≥ 1", 0),
        ("gate.min_tool_m", "≥ 1", 0),
        ("delimiter", "at least 1 character", ""),
    ],
)
def test_bounds_are_those_of_validation(path: str, bounds: str, value: object) -> None:
    (key,) = [key for _, _, keys in reference.sections() for key in keys if key.path == path]
    assert key.bounds == bounds
    section, _, name = path.rpartition(".")
    with pytest.raises(ConfigError, match=path):
        config_from({section: {name: value}} if section else {name: value})


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        *(("seed", "rollouts"), ("rollouts.batch_rows", None), ("mining.layers", "states"), ("mining.stability_rolls", "actions")),
        *(("basis.diversity", "basis"), ("gate.k_scale", "steered"), ("task.n_eval", "steered"), ("model.device", None)),
    ],
)
def test_the_stage_is_the_first_whose_results_change(path: str, stage: str | None) -> None:
    assert reference.first_stage(path) == stage


def test_with_other_value_changes_every_key() -> None:
    for _, _, keys in reference.sections():
        for key in keys:
            changed = reference.with_other_value(RunConfig(), key.path.split("."))
            assert changed != RunConfig(), key.path
            later = [stage_digest(changed, stage) != stage_digest(RunConfig(), stage) for stage in STAGES]
            assert later == sorted(later), f"{key.path}: a stage depends on it and a later one does not"


# ---- methods --------------------------------------------------------------------------------------------------------------------------


def test_every_method_and_parameter_is_shown() -> None:
    page = reference.methods_page()
    for decoder in DECODERS.values():
        section = page.split(f"\n## {decoder.name}\n", 1)[1].split("\n## ", 1)[0]
        assert decoder.about in section and decoder.source in section
        assert all(f"<code>{name}</code>" in section for name in decoder.parameters)


# ---- files ----------------------------------------------------------------------------------------------------------------------------


def files_of_embedded_runs() -> list[tuple[Path, Path]]:
    """Every file and folder of the embedded runs, as (run, path)."""
    return [(run, path) for run in EMBEDDED_RUNS.values() for path in sorted(run.rglob("*"))]


def test_the_documented_files_of_a_run_are_those_on_disk() -> None:
    told = set(re.findall(r"`([\w<>./-]+\.(?:jsonl?|safetensors|md))`", FORMATS.split("## A bundle")[0]))
    digest = re.compile(r"[0-9a-f]{8,16}")
    there: set[str] = set()
    for run, path in files_of_embedded_runs():
        parts = list(path.relative_to(run).parts)
        if path.is_dir() or path.name == "manifest.json":
            continue
        parts[0] = parts[0].removesuffix("-own")  # its files are those of `causal/`
        if parts[0] == "evaluation":
            parts[1] = "<label>"
            parts[-1] = f"<method>-<digest>{path.suffix}" if parts[2] == "answers" else parts[-1]
        if parts[0] == "critical":
            parts[-1] = digest.sub("<digest>", parts[-1])
        there.add("/".join(parts))
    named = told | {f"evaluation/<label>/{name}" for name in told if "/" not in name}
    assert there - named == set()
    # embedded runs have none of these
    elsewhere = {
        "log.jsonl",
        "report.md",
        "curation/edits.jsonl",
        "curation/head.json",
        "rollouts/manifest.json",
        "critical/<digest>.steps.json",
    }
    elsewhere |= {"calibration.json"}  # lies beside runs
    elsewhere |= {name for name in told if name.startswith("policy/")}
    assert told - there - elsewhere == set()


def test_tensors_are_documented_with_their_names() -> None:
    for run, path in files_of_embedded_runs():
        if path.suffix != ".safetensors":
            continue
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        (row,) = [line for line in FORMATS.splitlines() if line.startswith(f"| `{path.relative_to(run).as_posix()}`")]
        for name in header:
            assert f"`{re.sub(r'_[0-9]+$', '_L', name)}`" in row


def test_every_part_of_a_bundle_is_documented() -> None:
    section = FORMATS.split("## A bundle")[1].split("## A job")[0]
    assert all(f"| `{name}` |" in section for name in (MANIFEST, *PARTS))
    assert deploy.__doc__  # the section describes this package


def test_every_documented_record_exists_and_has_a_section() -> None:
    asked = reference.RECORD.findall(FORMATS)
    linked = {name for _, name in re.findall(r"\[(\w+)\]\(#(\w+)\)", FORMATS)}
    assert linked <= {name.lower() for _, name in asked}
    assert [name for _, name in asked] == re.findall(r"^### (\w+)$", FORMATS, re.MULTILINE)
    filled = reference.with_records(FORMATS)
    assert "<!-- record" not in filled
    for module, name in asked:
        record = getattr(reference.import_module(module), name)
        assert issubclass(record, Record)
        section = filled.split(f"\n### {name}\n", 1)[1].split("\n### ", 1)[0]
        assert all(f"| <code>{field}</code> |" in section for field in record.model_fields)


class Parent(Record):
    """A record."""

    a: int
    """What a is."""
    b: tuple[int, ...] = ()


class Child(Parent):
    """Another."""

    c: float | None = None
    """In two
    lines."""


def test_field_descriptions_come_from_the_class() -> None:
    said = reference.field_docs(Child)
    assert said == {"a": ("int", "What a is."), "b": ("tuple[int, ...]", ""), "c": ("float | None", "In two\nlines.")}
    assert "| <code>c</code> | <code>float &#124; None</code> | In two lines. Default <code>null</code>. |" in reference.record_table(Child)
