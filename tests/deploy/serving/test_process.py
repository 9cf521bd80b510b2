"""``stir serve`` as a process of its own: what it says when it begins, and how it ends while answers are being decoded."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from stir_core.cli import main
from stir_core.deploy.serving.runtime import SteeredModel
from stir_core.deploy.serving.service import KEY

HOSTILE = [
    b"GET /a%0Ab%1B[2J HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: lab\x1b[2J\r\nConnection: close\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: lab\r\nAuthorization: Bearer \x1b[2J\r\nConnection: close\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: lab\r\nAuthorization: \x80\xff\r\nConnection: close\r\n\r\n",
    b"\x1b[2J\n\n",
    b"GET /health HTTP/1.1\r\nHost: lab\r\nUpgrade: \xc2\x9b2J\r\nConnection: upgrade, close\r\n\r\n",
]
"""What should not reach a log or an answer as it is."""
SLOW = """
import sys, time
from stir_core.cli import main
from stir_core.models import scheduler
whole = scheduler.forward
scheduler.forward = lambda *args: time.sleep(0.02) or whole(*args)
raise SystemExit(main(sys.argv[1:]))
"""
"""The command itself; only every pass waits a little, so that signals meet answers half-way."""


@pytest.fixture
def process(tiny_bundled, tiny_folder):
    words = ["serve", str(tiny_bundled[1].folder), "--model", tiny_folder, "--name", "m", "--port", "0", "--grace", "60"]
    started = subprocess.Popen([sys.executable, "-c", SLOW, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def asked(url: str, tokens: int, stream: bool) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": "one"}], "max_tokens": tokens, "stream": stream, "stir": {"off": True}}
    return httpx.post(f"{url}/chat/completions", json=body, timeout=60, trust_env=False)


def test_signals_meet_running_answers(process):
    """The first lets them end and takes nothing new, a second one ends them; each reader is told, and nothing is a crash."""
    assert process.stdout is not None
    url = process.stdout.readline().split()[0]
    health = f"{url.removesuffix('/v1')}/health"
    with ThreadPoolExecutor(3) as pool:
        short, whole, stream = (pool.submit(asked, url, tokens, flows) for tokens, flows in ((60, False), (450, False), (450, True)))
        while httpx.get(health, trust_env=False).json()["live"] < 3 and not short.done():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert short.result(60).json()["usage"]["completion_tokens"] == 60, "what ends within the grace is whole"
        with pytest.raises(httpx.ConnectError):
            asked(url, 1, False)
        assert not whole.done() and not stream.done()
        process.send_signal(signal.SIGINT)
        cut, flowed = whole.result(60), stream.result(60)
    assert cut.status_code == 503 and cut.json()["error"]["code"] == "stopping"
    events = flowed.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]" and json.loads(events[-2].removeprefix("data: ")) == cut.json()
    assert len(events) > 5, "it had begun to answer"
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ""


def test_an_address_that_is_taken_is_one_line(tiny_bundled, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["serve", str(tiny_bundled[1].folder), "--port", str(other.getsockname()[1])]) == 2
    said = capsys.readouterr().err
    assert "cannot be listened on" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "65536"], "--port is 65536"),
        (["--rows", "0"], "--rows 0: input should be greater than or equal to 1"),
        (["--queue", "-1"], "--queue -1: input should be greater than or equal to 0"),
        (["--timeout", "nan"], "--timeout nan:"),
        (["--grace", "-1"], "--grace -1.0:"),
        (["--host", "no such host", "--port", "0"], "not an address of this machine"),
        (["--host", "0.0.0.0", "--port", "0"], "--host 0.0.0.0 lets other machines in: set STIR_API_KEY"),
        (["--host", "::", "--port", "0"], "--host :: lets other machines in: set STIR_API_KEY"),
        (["--connections", "0"], "--connections 0: input should be greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(tiny_bundled, capsys, monkeypatch, words, said):
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setattr(SteeredModel, "load", None)
    assert main(["serve", str(tiny_bundled[1].folder), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("stir: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize("key", ["", " ", "a\nb", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused(tiny_bundled, capsys, monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    assert main(["serve", str(tiny_bundled[1].folder), "--host", "0.0.0.0", "--port", "0"]) == 2
    assert f"{KEY} cannot be sent in a header" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["http://lab.example", "lab.example:8000", "", "a b", "lab\nexample", "me@lab.example"])
def test_a_host_is_allowed_by_its_name_alone(tiny_bundled, capsys, name):
    with pytest.raises(SystemExit) as refused:
        main(["serve", str(tiny_bundled[1].folder), "--allow-host", name])
    error = capsys.readouterr().err
    assert refused.value.code == 2 and "is not a host name: give it without http:// and port" in error and error.count("\n") == 1


def test_a_process_answers_to_the_names_that_it_was_given(tiny_bundled, tiny_folder):
    """Beyond the loopback, with its key; ``--host`` and the address of the connection are names of their own."""
    words = ["serve", str(tiny_bundled[1].folder), "--model", tiny_folder, "--name", "m\x1b\n", "--host", "0.0.0.0", "--port", "0"]
    words += ["--allow-host", "Lab.Example", "--allow-host", "lab"]
    started = subprocess.Popen(
        [sys.executable, "-m", "stir_core", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, KEY: "sesame"},
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert r'model "m\x1b\n"' in line and "bearer token asked for" in line
        port = line.split("/v1")[0].rpartition(":")[2]
        for host, status in (("lab.example", 200), ("LAB:80", 200), ("0.0.0.0", 200), ("127.0.0.1", 200), ("example", 403)):
            assert httpx.get(f"http://127.0.0.1:{port}/health", headers={"Host": host}, trust_env=False).status_code == status
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False).status_code == 401
        for request in HOSTILE:
            with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as connection:
                connection.sendall(request)
                assert b"\x1b" not in b"".join(iter(lambda: connection.recv(4096), b""))
    finally:
        started.terminate()
        _, errors = started.communicate(timeout=60)
    assert len(errors.splitlines()) <= len(HOSTILE) and all(line.isprintable() for line in errors.split("\n"))
