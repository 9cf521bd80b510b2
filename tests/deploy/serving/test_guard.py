"""What comes before a request: names in ``Host``, half heads, and more connections than a server takes."""

import json
import re
import socket
import time
from contextlib import ExitStack

import httpx
import pytest

from stir_core.deploy.serving import guard
from stir_core.deploy.serving.guard import HostCheck, host_name, is_loopback
from stir_core.deploy.serving.process import serving
from stir_core.deploy.serving.service import build_app
from stir_core.requests import Limits


@pytest.fixture(scope="module")
def url(steered):
    with serving(steered, "m") as address:
        yield address


def connect(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def exchange(url, head):
    """The whole of what the server sends until it closes the connection."""
    with connect(url) as connection:
        connection.sendall(head)
        return b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000"])
def test_names_of_this_machine_are_answered(url, host):
    assert httpx.get(f"{url}/health", headers={"Host": host}, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "localhost.", "127.0.0.1.evil.example", "2130706433", "[::2]"]
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("GET", "/metrics"), ("POST", "/v1/chat/completions"), ("GET", "/none")])
def test_another_name_is_refused_on_every_path(url, host, method, path):
    response = httpx.request(method, url + path, headers={"Host": host}, trust_env=False)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (403, "host_not_allowed")
    name = host.removesuffix(":8000")
    assert error["message"] == f"this server is not known as {host!r}: start it with --allow-host {name}, or ask it as 127.0.0.1"


@pytest.mark.parametrize(
    "host", [b"", b"me@localhost", b"localhost/x", b"local host", b"\xff", b"localhost:80x", b"[localhost]", b"a" * 5000]
)
def test_what_is_not_a_host_is_refused_in_one_line(url, host):
    answer = exchange(url, b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    status, body = answer.split(b" ")[1], answer.partition(b"\r\n\r\n")[2]
    assert status in (b"400", b"403") and body.count(b"\n") == 0 and len(body) < 1000


@pytest.mark.parametrize("head", [b"GET /health HTTP/1.0\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n"])
def test_a_request_without_one_host_is_refused(url, head):
    assert re.match(rb"HTTP/1.1 40[03] ", exchange(url, head))


def test_every_host_is_answered_only_where_that_was_asked_for(steered):
    for hosts, guarded in ((None, False), (("lab",), True)):
        app = build_app(steered, "m", hosts=hosts)
        assert any(each.cls is HostCheck for each in app.user_middleware) == guarded


@pytest.mark.parametrize(
    ("host", "name"),
    [("Lab:80", "lab"), ("lab", "lab"), ("[::1]", "[::1]"), ("a:b", None), ("a@b", None), ("", None), ("a\n", None), ("[x]", None)],
)
def test_the_name_of_a_host(host, name):
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("address", "alone"),
    [
        *(("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("lab", False), ("", False), ("localhost.example", False)),
    ],
)
def test_which_addresses_only_this_machine_reaches(address, alone):
    assert is_loopback(address) == alone


HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("first", [b"", b"G", HEAD, b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le"])
def test_half_a_head_is_closed(url, monkeypatch, first):
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.3)
    assert exchange(url, first) == b""
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200


@pytest.mark.parametrize("before", [b"", HEAD + b"\r\n", HEAD + b"Content-Length: 1000\r\n\r\n"])
def test_a_head_that_comes_byte_by_byte_is_closed(url, monkeypatch, before):
    """Also the second one of a connection, and a body that nobody reads: each byte would begin the wait between two requests again."""
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.3)
    with connect(url) as connection:
        connection.sendall(before)
        if before:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.settimeout(0.05)
        for sent in range(200):
            try:
                connection.sendall(b"x" if sent else b"G")
                if connection.recv(4096) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:  # the server has closed it, and is told of more
                break
        assert sent < 100, "it was open for five seconds"


def test_an_answer_may_take_longer_than_a_head(url, monkeypatch):
    """The time ends where the request is whole: neither a slow body nor a slow answer is cut."""
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.3)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "one"}], "max_tokens": 4}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with connect(url) as connection:
        connection.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
        time.sleep(0.6)
        connection.sendall(body[10:])
        assert b"".join(iter(lambda: connection.recv(4096), b"")).startswith(b"HTTP/1.1 200")


def test_more_connections_than_are_taken_are_refused_and_one_that_ends_makes_room(steered):
    with serving(steered, "m", Limits(connections=4)) as url, ExitStack() as held:
        open_ones = [held.enter_context(connect(url)) for _ in range(4)]
        for connection in open_ones:  # each is taken before the next one knocks
            connection.sendall(HEAD + b"\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        answer = exchange(url, b"")
        assert answer.startswith(b"HTTP/1.1 503 ") and b'"4 connections are open: try again in a moment"' in answer
        open_ones[0].close()
        end = time.monotonic() + 20
        while b" 503 " in exchange(url, HEAD + b"Connection: close\r\n\r\n")[:20]:
            assert time.monotonic() < end
