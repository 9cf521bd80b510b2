"""What a request passes before it reaches an endpoint: the number of connections, the time for its head to arrive, and its ``Host``."""

import asyncio
import ipaddress
import json
import re
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from stir_core.deploy.serving.protocol import Refused

HEAD_SECONDS = 10.0
"""Maximum time in seconds that a connection may be open without a whole head of a request, or between two requests."""
THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")
"""Names in ``Host`` that reach the loopback."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(:\d*)?")


def is_loopback(address: str) -> bool:
    """Whether an address (or ``localhost``) can be reached from this machine only."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def host_name(host: str) -> str | None:
    """The name in a ``Host`` header, in lower case and without its port; ``None`` if it is not a host."""
    found = _HOST.fullmatch(host)
    return found[1].lower() if found else None


class HostCheck:
    """Refuses requests for a host that this server is not known as: a page of another site sends one after DNS rebinding.

    The address that the client has connected to is allowed too; a rebound page has a name, not an address. Starlette's own
    ``TrustedHostMiddleware`` refuses in plain text, without the host and the remedy.

    Args:
        names: what the server is known as, in lower case, without ports.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]):
        self._app, self._names = app, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 403."""
        if scope["type"] == "http":
            host, server = Headers(scope=scope).get("host", ""), scope.get("server")
            address = str(server[0]) if server else ""
            name = host_name(host)
            if name not in self._names | {f"[{address}]" if ":" in address else address}:
                remedy = f"start it with --allow-host {name[:80]}, or ask it as 127.0.0.1" if name else "send a Host header"
                line = f"this server is not known as {host[:80]!r}: {remedy}"
                refused = Refused(403, line, kind="permission_error", code="host_not_allowed")
                await JSONResponse(refused.body(), status_code=refused.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Connection(H11Protocol):
    """uvicorn's connection with a limit on their number, and on the time without a request that is being answered.

    uvicorn waits for the rest of a head for ever, and counts connections only when they have sent a request.
    """

    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or answer 503 if there are too many."""
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            refused = Refused(503, f"{self._most} connections are open: try again in a moment", kind="server_error")
            body = json.dumps(refused.body())
            head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.transport.write(f"HTTP/1.1 503 Service Unavailable\r\n{head}{body}".encode())
            self.transport.close()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on; the time runs until a request is whole."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _unwatch(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
