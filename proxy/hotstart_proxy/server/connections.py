"""Connections: aiohttp's HTTP protocol with half-close, cutting, and problem documents for its errors."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

from hotstart._version import __version__

from .problems import PROBLEM_MEDIA_TYPE, Problem

__all__ = ["Connection", "ConnectionLost", "ConnectionServer"]

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# A client keeps a pool of connections across invocations of a function; minutes of idleness are normal.
KEEP_ALIVE_SECONDS = 600.0
# The longest path that a directory origin may have (4096 bytes), every byte of it escaped, and the rest.
MAX_LINE_BYTES = 16 * 1024


class ConnectionLost(ConnectionResetError):
    """The client is gone; nothing more can be sent."""


class Connection(web.RequestHandler):
    """One client connection.

    Attributes:
        half_closed: the client has ended its side and may still read ours (``shutdown(SHUT_WR)``).
        answered: requests that our handler is done with.
    """

    __slots__ = ("answered", "half_closed", "on_malformed")

    def __init__(
        self,
        server: ConnectionServer,
        on_malformed: Callable[[web.BaseRequest, Problem], None],
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self.half_closed = False
        self.answered = 0
        self.on_malformed = on_malformed

    @property
    def busy(self) -> bool:
        """A request has arrived that is not answered yet."""
        return self._request_count > self.answered

    @property
    def is_unix(self) -> bool:
        """The client came by a Unix socket."""
        pseudo = None if self.transport is None else self.transport.get_extra_info("socket")
        return pseudo is not None and pseudo.family == socket.AF_UNIX

    @property
    def more_requests(self) -> bool:
        """Pipelined requests wait behind the one being answered."""
        return bool(self._messages)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection for writing while there is something to answer."""
        self.half_closed = True
        return True if self.busy and self.ssl_context is None else None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached our handler (malformed HTTP), and end the connection."""
        detail = (message or str(exc or "")).partition("\n")[0].strip().rstrip(":")
        problem = Problem(status, "malformed-request" if status < 500 else "internal", detail)
        self.on_malformed(request, problem)
        if request.writer.output_size > 0:
            raise ConnectionLost("the answer was under way")
        response = web.Response(status=problem.status, body=problem.dump(), content_type=PROBLEM_MEDIA_TYPE)
        response.headers.update(
            {
                "Cache-Control": "no-store",
                "Connection": "close",
                "Server": f"hotstart/{__version__}",
                "X-Content-Type-Options": "nosniff",
            }
        )
        response.force_close()
        return response

    def raw_socket(self) -> int | None:
        """Return the socket's descriptor for use beside the transport; None where TLS stands between.

        Raises:
            ConnectionLost: there is none any more.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionLost("the client is gone")
        if sys.platform != "linux" or transport.get_extra_info("sslcontext") is not None:
            return None
        descriptor: int = transport.get_extra_info("socket").fileno()
        return descriptor

    def cut(self) -> None:
        """End the connection at once, so that the client sees a body that is too short and no clean end.

        Shuts the socket down first: closing the transport alone does not stop a transfer that runs on a
        duplicate of its descriptor.
        """
        transport = self.transport
        if transport is None:
            return
        pseudo = transport.get_extra_info("socket")
        if pseudo is not None and pseudo.fileno() >= 0:
            # An OSError: it is not connected any more.
            with socket.socket(fileno=os.dup(pseudo.fileno())) as duplicate, suppress(OSError):
                duplicate.shutdown(socket.SHUT_RDWR)
        transport.abort()


class ConnectionServer(web.Server):
    """Makes a ``Connection`` for every client; several listeners may share one."""

    def __init__(self, handler: Handler, on_malformed: Callable[[web.BaseRequest, Problem], None]) -> None:
        # A handler whose client is gone is cancelled, so that it lets go of files and fills.
        super().__init__(handler, handler_cancellation=True)
        self._on_malformed = on_malformed

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(
            self,
            self._on_malformed,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            access_log=None,
            max_line_size=MAX_LINE_BYTES,
            # Nothing that we serve reads a request's body.
            lingering_time=0.0,
            auto_decompress=False,
        )

    def open_connections(self) -> list[Connection]:
        """Return all connections that are open now."""
        return [connection for connection in self.connections if isinstance(connection, Connection)]
