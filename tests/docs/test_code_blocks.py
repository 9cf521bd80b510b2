"""The documentation's code: command lines pass the real parser, settings the real schema, and Python blocks run.

The Python blocks of a page are one script, run in its own process in an empty folder (marker ``notebooks``: `make test` leaves
it out). A block right below ``<!-- not run: REASON -->`` is only compiled.
"""

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import stir_core
from scripts import dev, reference
from stir_core import cli
from stir_core.config import RunConfig, config_from
from stir_core.errors import StirError
from tests.docs.blocks import ROOT, SHELL, Block, Line, blocks, command_lines, inline_commands, pages

PAGES = pages()
ALL = [block for page in PAGES for block in blocks(page)]
LINES = [line for page in PAGES for line in command_lines(page)]
PYTHON = ("python", "py")
OTHERS = ("", "text", "html", "yaml", "diff", "bibtex", "ini", "dockerfile", "svg")
FOREIGN = {
    "cd",
    "mkdir",
    "cat",
    "ls",
    "head",
    "echo",
    "export",
    "source",
    "open",
    "unzip",
    "tar",
    "git",
    "pip",
    "python",
    "python3",
    "curl",
}
FOREIGN |= {"streamlit", "jupyter", "vllm", "llama-cli", "nvidia-smi", "lm_eval", "ray"}
"""External programs that a page may name; the arguments of our own commands are checked."""
MOST_NOT_RUN = 8
"""Limit on the number of blocks that are not run."""


def shown(block: Block | Line) -> str:
    return f"{block.page}:{block.line}"


def test_there_is_something_to_check() -> None:
    assert {"README.md", "docs/tour.md", "docs/evaluation.md"} <= {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert len(LINES) > 30
    assert any(block.language in PYTHON for block in ALL)


def test_every_block_names_its_language() -> None:
    known = {*PYTHON, *SHELL, *OTHERS, "toml", "json"}
    assert [f"{shown(block)} {block.language}" for block in ALL if block.language not in known] == []


# ---- command lines --------------------------------------------------------------------------------------------------------------------


def test_every_command_line_is_accepted() -> None:
    parser = cli.command_parser()
    assert [f"{shown(line)} {why}" for line in LINES if (why := refused(line.words, parser))] == []


def test_every_inline_command_exists() -> None:
    known = {each.words: options_of(each.parser) for each in reference.commands(cli.command_parser())}
    assert [f"{shown(line)} {why}" for page in PAGES for line in inline_commands(page) if (why := unknown(line.words, known))] == []


def refused(words: tuple[str, ...], parser) -> str | None:
    """Why a command line is wrong, or None."""
    program, *rest = words
    if program == "stir":
        return refused_by_stir(rest, parser)
    if program == "make" or words[:2] in (("python", "scripts/dev.py"), ("python3", "scripts/dev.py")):
        target = (rest[0] if program == "make" else rest[1]) if rest else "help"
        return None if target in dev.COMMANDS or target == "help" else f"there is no make {target}"
    if program in ("python", "python3") and rest[:1] == ["-m"]:
        return refused_module(rest[1:], parser)
    if program not in FOREIGN:
        return f"{program} is no program that the documentation knows"
    missing = [word for word in rest if re.fullmatch(r"(workbench|scripts|configs|benchmarks|notebooks)/[\w./-]+", word)]
    return next((f"{word} is not there" for word in missing if not (ROOT / word).exists()), None)


def refused_by_stir(words: list[str], parser) -> str | None:
    """Why the real parser refuses ``stir ...``, or a config file that does not exist; else None."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            parser.parse_args(words)
        except SystemExit as end:
            if end.code:
                return said.getvalue().strip().splitlines()[-1]
    files = [word for word in words if re.fullmatch(r"configs/[\w-]+\.toml", word)]
    return next((f"{file} is not there" for file in files if not (ROOT / file).exists()), None)


def refused_module(words: list[str], parser) -> str | None:
    """Why ``python -m ...`` names a module of ours that does not exist, or None."""
    if words[0] in ("stir_core", "stir_core.cli"):
        return refused_by_stir(words[1:], parser)
    if words[0].split(".")[0] not in ("scripts", "benchmarks", "workbench", "stir_core", "tests"):
        return None
    path = ROOT / words[0].replace(".", "/")
    return None if path.with_suffix(".py").exists() or (path / "__main__.py").exists() else f"there is no module {words[0]}"


def options_of(parser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def unknown(words: tuple[str, ...], known: dict[tuple[str, ...], set[str]]) -> str | None:
    """Why an inline ``stir NAME ... --option`` names an unknown command or option, or None; the rest may be abbreviated."""
    if words[1] in ("...", "COMMAND", "…", "--help", "--version"):
        return None
    if (words[1],) not in known:
        return f"there is no stir {words[1]}"
    options = set().union(*(names for name, names in known.items() if name[0] == words[1]))
    asked = (word.split("=")[0].rstrip(".,;)") for word in words if re.match(r"--\w", word))
    return next((f"stir {words[1]} has no {option}" for option in asked if option not in options), None)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("stir run configs/smollm2.toml --untill basis", "unrecognized arguments"),
        ("stir runn configs/smollm2.toml", "invalid choice"),
        ("stir run configs/no-such.toml", "is not there"),
        ("stir run configs/smollm2.toml --until base", "invalid choice"),
        ("make workbenhc", "there is no make workbenhc"),
        ("python3 scripts/dev.py tset", "there is no make tset"),
        ("python -m benchmarks.decoding", "there is no module"),
        ("python -m stir_core status", "the following arguments are required"),
        ("strr status smollm2", "no program"),
        ("streamlit run workbench/main.py", "is not there"),
    ],
)
def test_a_wrong_line_is_detected(line: str, why: str) -> None:
    said = refused(tuple(line.split()), cli.command_parser())
    assert said is not None and why in said


@pytest.mark.parametrize(("words", "why"), [("stir evaluate smollm2", "no stir evaluate"), ("stir run C --onto X", "has no --onto")])
def test_a_wrong_inline_command_is_detected(words: str, why: str) -> None:
    said = unknown(tuple(words.split()), {each.words: options_of(each.parser) for each in reference.commands(cli.command_parser())})
    assert said is not None and why in said


# ---- settings and data ----------------------------------------------------------------------------------------------------------------


def test_settings_and_data_blocks_are_valid() -> None:
    wrong = [f"{shown(block)} {why}" for block in ALL if block.language in ("toml", "json") and (why := unreadable(block))]
    assert wrong == []


def unreadable(block: Block) -> str | None:
    """Why a block of settings or JSON is refused, or None. A sweep file (with ``base``) is only parsed as TOML."""
    try:
        if block.language == "json":
            json.loads(block.text)
            return None
        settings = tomllib.loads(block.text)
        if set(settings) <= set(RunConfig.model_fields):
            config_from(settings)
        elif "base" not in settings:
            return f"knows keys that no settings have: {sorted(set(settings) - set(RunConfig.model_fields))}"
    except (ValueError, StirError) as error:
        return str(error)
    return None


def test_wrong_settings_are_detected() -> None:
    def told(language: str, text: str) -> str | None:
        return unreadable(Block("page.md", 1, language, text, None))

    assert "did you mean gate.k_scale" in (told("toml", "[gate]\nk_scal = 0.3") or "")
    assert "no settings have" in (told("toml", "[gates]\nk_scale = 0.3") or "")
    assert told("json", "{") and told("toml", "[gate]\nk_scale = 0.3") is None


# ---- Python ---------------------------------------------------------------------------------------------------------------------------


def test_python_compiles_and_its_names_exist() -> None:
    wrong = [f"{shown(block)} {why}" for block in ALL if block.language in PYTHON for why in strangers(block.text)]
    assert wrong == []


def strangers(source: str) -> Iterator[str]:
    """Names of this project that a block uses and that do not exist; the block is not executed."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "stir":
            if node.attr not in stir_core.__all__ and node.attr not in ("__version__", "__all__"):
                yield f"stir.{node.attr} is no public name"
        elif (
            isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("stir_core", "workbench", "tests", "scripts")
        ):
            path = ROOT / node.module.replace(".", "/")
            file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
            if not file.exists():
                yield f"there is no module {node.module}"
                continue
            words = set(re.findall(r"\w+", file.read_text("utf-8")))
            yield from (
                f"{node.module} has no {alias.name}"
                for alias in node.names
                if alias.name not in words and not (path / alias.name).with_suffix(".py").exists() and not (path / alias.name).is_dir()
            )


def test_an_unknown_name_is_detected() -> None:
    assert list(strangers("import stir_core as stir\nstir.steeer(1)")) == ["stir.steeer is no public name"]
    assert list(strangers("from stir_core.gate import decide")) == ["there is no module stir_core.gate"]
    assert list(strangers("from stir_core.config import RunConfg")) == ["stir_core.config has no RunConfg"]
    assert list(strangers("import stir_core as stir\nfrom stir_core.models import lens\nstir.steer(1)")) == []


def test_few_blocks_are_not_run() -> None:
    left_out = [f"{shown(block)} {block.not_run}" for block in ALL if block.language in PYTHON and block.not_run]
    assert len(left_out) <= MOST_NOT_RUN, left_out


def scripts_of_pages() -> dict[str, list[Block]]:
    """The blocks to run, by page; tests/test_api.py runs the README's example."""
    scripts: dict[str, list[Block]] = {}
    for block in ALL:
        if block.language in PYTHON and not block.not_run and block.page != "README.md":
            scripts.setdefault(block.page, []).append(block)
    return scripts


RUNNER = """
import json, sys
space = {"__name__": "__main__"}
for place, line, source in json.load(open(sys.argv[1], encoding="utf-8")):
    exec(compile("\\n" * (line - 1) + source, place, "exec"), space)
"""


def run_blocks(todo: list[Block], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page's blocks in order as one script in an empty folder."""
    script, facts = folder / "blocks.py", folder / "blocks.json"
    work = folder / "work"
    work.mkdir()
    script.write_text(RUNNER, "utf-8")
    facts.write_text(json.dumps([(str(ROOT / block.page), block.line, block.text) for block in todo]), "utf-8")
    env = dict(os.environ, PYTHONPATH=str(ROOT), STIR_RUNS=str(work / "runs"), HF_HUB_OFFLINE="1", MPLBACKEND="agg")
    return subprocess.run([sys.executable, script, facts], cwd=work, env=env, capture_output=True, text=True, timeout=280)


@pytest.mark.notebooks
@pytest.mark.parametrize("page", sorted(scripts_of_pages()))
def test_the_python_of_a_page_runs(page: str, tmp_path: Path) -> None:
    done = run_blocks(scripts_of_pages()[page], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_failing_block_is_reported_with_its_line(tmp_path: Path) -> None:
    first = Block("docs/tour.md", 7, "python", "a = 1\n", None)
    done = run_blocks([first, Block("docs/tour.md", 20, "python", "a += 1\nassert a == 3\n", None)], tmp_path)
    assert done.returncode != 0
    assert 'tour.md", line 21' in done.stderr


QUIET = ("status", "show", "models", "tasks", "methods", "compare")
"""Commands that load no model and write nothing."""


@pytest.mark.notebooks
def test_the_cheap_commands_of_all_pages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STIR_RUNS", str(tmp_path / "runs"))
    told = {line.words[1:]: line for line in LINES if line.words[0] == "stir" and line.words[1] in QUIET}
    ran = 0
    for words, line in told.items():
        needs_data = words[0] == "tasks" and len(words) > 1 and words[1] != "arithmetic"
        if needs_data or "--check" in words or "--prepare" in words or any(re.fullmatch(r"[A-Z]+|runs/.*", word) for word in words):
            continue
        assert cli.main(list(words)) == 0, f"{shown(line)}: {capsys.readouterr().err}"
        ran += 1
    assert ran >= 4
