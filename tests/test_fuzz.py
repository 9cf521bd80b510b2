"""Every parser refuses what is not its format in one of our errors, on a few drawn inputs each; ``python -m scripts.fuzz`` draws many.

What the long runs found is kept here, with the smallest input.
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from hypothesis import strategies as st

from scripts.fuzz import ROOT, Escape, Hang, Parser, fuzzed, tried
from stir_core.cli import main
from stir_core.commands.overrides import overridden
from stir_core.config import RunConfig
from stir_core.deploy.targets.published import read_published
from stir_core.errors import ConfigError, DataError, DeployError
from stir_core.models.catalogue import catalogue, folder_source
from stir_core.tasks.benchmarks import read_benchmark
from stir_core.tasks.structure import same_answer


@pytest.fixture
def alarm():
    """The alarm of :func:`~scripts.fuzz.tried` while a test runs."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang("too long")

    before = signal.signal(signal.SIGPROF, late)
    yield
    signal.signal(signal.SIGPROF, before)


def test_no_parser_lets_another_error_through() -> None:
    """In a process of its own, without the type checks of the tests, which would come before the parsers' own."""
    command = [sys.executable, "-W", "ignore", "-m", "scripts.fuzz", "--inputs", "25", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith(", 0 escapes and hangs\n"), done.stdout + done.stderr[-500:]
    counts = [int(count) for count in re.findall(r"^.+: (\d+) \+ 0 inputs", done.stdout, re.MULTILINE)]
    assert len(counts) > 20 and min(counts) > 0


def test_an_escape_and_a_hang_are_found(alarm: None) -> None:
    def fails(text: str) -> None:
        if "x" in text:
            raise KeyError(text)

    count, (line,) = fuzzed(Parser(fails, st.text("xyz")), 200, first_seed=0)
    assert count > 0 and line == "Escape KeyError: 'x' on 'x'"

    def hangs(text: str) -> None:
        while True:
            pass

    with pytest.raises(Hang):
        tried(Parser(hangs, st.text()), "")
    with pytest.raises(Escape):
        tried(Parser(fails, st.text()), "x")


@pytest.mark.parametrize(
    "data",
    [
        b'{"question": "\xff"}\n',
        b"[" * 100_000,
        b'{"question": ' + b"9" * 5000 + b"}",
        b'{"question": "half of a sign \\ud83d", "answer": "#### 1"}',
    ],
)
def test_a_benchmark_file_that_is_not_json_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_bytes(data)
    with pytest.raises(DataError, match=r"test\.jsonl line 1 is not JSON \(.*\): fetch the file again"):
        read_benchmark("gsm8k", "test", str(tmp_path))


def test_a_header_of_an_array_that_does_not_end_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "keys.npy", np.eye(2, dtype=np.float32))
    whole = (tmp_path / "keys.npy").read_bytes()
    (tmp_path / "keys.npy").write_bytes(whole.replace(b", }", b", [", 1))
    (tmp_path / "entries.jsonl").write_text(json.dumps({}))
    with pytest.raises(DeployError, match=r"keys\.npy is not a plain array file"):
        read_published(tmp_path)


@pytest.mark.parametrize("text", ["[" * 5000, "a = " + "[" * 5000, "a = " + "9" * 5000])
def test_toml_that_is_nested_too_deeply_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text(text)
    for words in (["run", str(tmp_path / "c.toml")], ["sweep", str(tmp_path / "c.toml")]):
        assert main([*words, "--out", str(tmp_path / "x")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ConfigError, match=r"gate\.rho"):
        overridden(RunConfig(), [f"gate.rho={'[' * 5000}"])


def test_a_damaged_note_in_the_cache_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STIR_CACHE", str(tmp_path))
    for name, data in (("one", b"["), ("two", b"[" * 100_000), ("three", b"[]"), ("four", b"\xff"), ("five", b'{"source": "f.gguf"}')):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "source.json").write_bytes(data)
    assert [each.name for each in catalogue() if each.kind == "gguf" and each.where.startswith(str(tmp_path))] == ["f.gguf"]
    assert folder_source(tmp_path / "models" / "one").kind == "folder"


def test_a_sign_in_an_open_bracket_has_no_sides() -> None:
    assert not same_answer("5", "{\\approx", lambda a, b: False)
