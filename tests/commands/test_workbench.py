"""How ``stir workbench`` starts its server: alone on the loopback, or shared with the hash of a password."""

import getpass
import io
import os
import sys

import pytest

from stir_core.cli import main
from stir_core.deploy.serving.password import HASH, PasswordCheck

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere the server is a child process")
Started = list[tuple[list[str], dict[str, str]]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    calls: Started = []
    monkeypatch.setattr(os, "execve", lambda program, words, environment: calls.append((words, environment)))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.delenv(HASH, raising=False)
    # where there is no exec to leave this process, the command would go on to start a child
    monkeypatch.setattr("subprocess.call", lambda words, env: 0)
    return calls


def option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def test_alone_it_listens_where_the_config_says(started: Started) -> None:
    assert main(["workbench", "--port", "8600", "--", "--server.headless", "true"]) == 0
    [(words, environment)] = started
    assert words[:4] == [sys.executable, "-m", "streamlit", "run"] and words[4].endswith(os.path.join("workbench", "app.py"))
    assert words[5:] == ["--server.port", "8600", "--server.headless", "true"] and HASH not in environment


def test_shared_it_listens_everywhere_and_knows_the_hash_alone(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\nand more\n"))
    assert main(["workbench", "--share"]) == 0
    [(words, environment)] = started
    assert option(words, "--server.address") == "0.0.0.0" and option(words, "--client.showErrorDetails") == "type"
    assert option(words, "--browser.serverAddress") == "localhost", "or Streamlit would ask another host for its address"
    assert "correct horse" not in " ".join([*words, *environment.values()])
    assert PasswordCheck(environment[HASH]).fits("correct horse")


@pytest.mark.parametrize(("typed", "code"), [(["correct horse", "correct horse"], 0), (["correct horse", "correct hose"], 2)])
def test_at_a_terminal_it_is_typed_twice(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: list[str], code: int
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: typed.pop(0))
    assert main(["workbench", "--share"]) == code and len(started) == 1 - code // 2
    assert ("the two passwords differ" in capsys.readouterr().err) == (code == 2)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--share"], "the password has 0 characters: take 8 to 200"),  # standard input is empty
        (["--port", "0"], "--port is 0: give 1 to 65535"),
        (["--port", "65536", "--share"], "--port is 65536: give 1 to 65535"),
    ],
)
def test_nothing_is_started_otherwise(started: Started, capsys: pytest.CaptureFixture[str], words: list[str], line: str) -> None:
    assert main(["workbench", *words]) == 2
    assert capsys.readouterr().err == f"stir: {line}\n" and started == []
