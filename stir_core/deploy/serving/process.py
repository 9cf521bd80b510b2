"""The server as a process: its socket, and its shutdown."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from stir_core.deploy.serving.guard import Connection
from stir_core.deploy.serving.runtime import SteeredModel
from stir_core.deploy.serving.service import build_app
from stir_core.deploy.serving.worker import Worker
from stir_core.errors import DeployError
from stir_core.requests import Limits

_LAST = 2.0
"""Seconds for clients to receive the end of their answers before their connections are dropped."""


class Server(uvicorn.Server):
    """uvicorn with another shutdown: running answers are ended, and their last events sent, before any connection is dropped.

    uvicorn alone would cancel the tasks that wait for the decode loop, and their clients would get nothing.

    Args:
        limits: the number of connections, and the seconds for running answers to end; a second signal ends them at once.
    """

    def __init__(self, app: Starlette, worker: Worker, limits: Limits):
        quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
        super().__init__(uvicorn.Config(app, http=Connection, ws="none", limit_concurrency=limits.connections, **quiet))
        self._worker, self._grace, self._hurried = worker, limits.grace, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM or Ctrl-C here, so that uvicorn does not raise it again and the process ends with 0."""
        self._hurried = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let answers end or cut them off, then exit."""
        ending = asyncio.ensure_future(self._end())
        await super().shutdown(sockets)
        await ending

    async def _end(self) -> None:
        self._worker.close()
        end = time.monotonic() + self._grace
        while self._worker.alive and time.monotonic() < end and not self._hurried:
            await asyncio.sleep(0.05)
        self._worker.cut()
        end = time.monotonic() + _LAST
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.05)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()  # the client has stopped reading


def bound(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; port 0 takes any free port.

    Raises:
        DeployError: the address is taken, or not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise DeployError(
            f"--host {host} is not an address of this machine ({error.strerror}): take 127.0.0.1, or 0.0.0.0 for all"
        ) from None
    try:
        if os.name == "posix":  # on Windows the option would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise DeployError(f"{host} port {port} cannot be listened on ({error.strerror}): choose another --port or --host") from None
    return listener


@contextmanager
def serving(steered: SteeredModel, name: str, limits: Limits | None = None, *, key: str | None = None) -> Iterator[str]:
    """A server in this process on a free port of 127.0.0.1 until the block ends; yields its address. `stir serve` is the permanent one.

    Args:
        steered: the model that answers.
        name: the model's name in the protocol.
        limits: answers side by side, waiting requests, sizes and times.
        key: bearer token that requests must send.

    Raises:
        DeployError: it did not start.
    """
    listener = bound("127.0.0.1", 0)
    limits = limits or Limits()
    app = build_app(steered, name, limits, key=key)
    server = Server(app, app.state.service.worker, limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise DeployError("the server did not start: see its output")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
