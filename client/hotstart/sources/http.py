"""HTTP/1.1 over TCP, TLS or a Unix socket: one connection of one thread, and the answers it brings.

``http.client`` is met here and nowhere else, and its exceptions end here as ``SourceError``. Importing it
costs 40 ms, so this module is imported when the first connection is needed and not before.

The proxies that ``HTTP_PROXY`` and its kin name are never used: a hotstart proxy lies on this host or subnet,
and weights sent through a general proxy would arrive at its speed.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Mapping

from hotstart._version import __version__

from .base import Body, SourceError
from .endpoints import Endpoint, mask_queries

__all__ = ["CONNECT_SECONDS", "IDLE_SECONDS", "Connection", "Response", "tls_context"]

# A proxy on this host or subnet answers in milliseconds and S3 in tens of them; whoever has not answered
# after this long is not there, and the next source is.
CONNECT_SECONDS = 5.0
# Between two receives. Longer than a proxy's own retries at a slow origin take, so that a lost origin is
# given up by the one who knows more; a dead peer resets at once and does not wait for this.
IDLE_SECONDS = 30.0
_STEP_BYTES = 1024 * 1024
# More than the body of any redirect; what is longer costs a new connection.
_MAX_DISCARDED_BYTES = 16 * 1024
# The size of the buffer through which http.client reads heads.
_READ_AHEAD_BYTES = io.DEFAULT_BUFFER_SIZE
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_SECONDS)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_SECONDS)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return the system's trust (or ``SSL_CERT_FILE``'s): one for all, since reading it takes some 20 ms."""
    return ssl.create_default_context()


def _new_connection(endpoint: Endpoint) -> http.client.HTTPConnection:
    if endpoint.scheme == "unix":
        return _UnixConnection(endpoint.socket_path)
    if endpoint.scheme == "https":
        return http.client.HTTPSConnection(
            endpoint.host, endpoint.port, timeout=CONNECT_SECONDS, context=tls_context()
        )
    # http.client itself sets TCP_NODELAY.
    return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=CONNECT_SECONDS)


class Connection:
    """A connection that stays open between requests and is made anew where it was lost.

    One thread uses it at a time; ``close`` may come from another and ends what is going on.

    Attributes:
        endpoint: where to.
        source: the source's name, for errors.
        connect_seconds: how long the last connecting took; None before the first.
    """

    def __init__(self, endpoint: Endpoint, source: str, idle_seconds: float = IDLE_SECONDS) -> None:
        """Prepare; nothing is connected before the first request.

        Args:
            endpoint: where to.
            source: the source's name, for errors.
            idle_seconds: the longest wait for the next bytes.
        """
        self.endpoint = endpoint
        self.source = source
        self._idle_seconds = idle_seconds
        self.connect_seconds: float | None = None
        self._http: http.client.HTTPConnection | None = None
        # Of its own: http.client lets go of the socket when an answer says that it is the last.
        self._socket: socket.socket | None = None
        self._closed = False
        # Held while the using thread is inside the socket or http.client: whoever closes then leaves the
        # descriptor to it, since a closed number may be another file's the moment after.
        self.busy = threading.Lock()

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        doing: str,
        body: bytes | None = None,
    ) -> Response:
        """Send a request and read the answer's head, whatever its status.

        A kept connection that turns out to be gone is made anew once. The answer before must be closed.

        Raises:
            SourceError: no connection, no answer in time, or no HTTP; or this was closed meanwhile.
        """
        for attempt in (1, 2):
            reused = self._http is not None
            try:
                with self.busy:
                    return self._exchange(method, target, headers, body, doing)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.drop()
                stale = reused and attempt == 1 and isinstance(error, _STALE) and not self._closed
                if not stale:
                    raise self.failure(doing, error) from error
        raise AssertionError("the second attempt returns or raises")

    def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, doing: str
    ) -> Response:
        connection = self._connected()
        connection.request(
            method,
            target,
            body,
            {"Host": self.endpoint.authority, "User-Agent": f"hotstart/{__version__}", **headers},
        )
        return Response(self, connection.getresponse(), doing)

    def _connected(self) -> http.client.HTTPConnection:
        connection = self._http
        if connection is None:
            connection = _new_connection(self.endpoint)
            self._http = connection
            try:
                started = time.perf_counter()
                connection.connect()
                self.connect_seconds = time.perf_counter() - started
            except TimeoutError as error:
                raise _ConnectTimeout from error
            self._socket = connection.sock
            self._socket.settimeout(self._idle_seconds)
        if self._closed:
            # It was closed while this thread was connecting.
            raise ConnectionAbortedError
        return connection

    def wait_for(self, idle_seconds: float) -> None:
        """Wait as long from now on for the next bytes; for the thread that uses it."""
        self._idle_seconds = idle_seconds
        if self._socket is not None:
            self._socket.settimeout(idle_seconds)

    def failure(self, doing: str, error: Exception) -> SourceError:
        """Return what an exception of ``http.client`` or the socket means to a caller."""
        if self._closed:
            return SourceError(self.source, doing, "it was closed from our side", transient=False)
        if isinstance(error, TimeoutError):
            reason, transient = f"nothing arrived for {self._idle_seconds:g} s", True
        else:
            reason, transient = _explain(error)
        return SourceError(self.source, doing, reason, transient=transient)

    def drop(self) -> None:
        """Forget the connection; the next request makes a new one. For the thread that uses it."""
        with self.busy:
            self.forget()

    def forget(self) -> None:
        """Do what drop does, under ``busy``."""
        connection, self._http, self._socket = self._http, None, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """End what is going on and refuse what comes; idempotent, from any thread."""
        self._closed = True
        sock = self._socket
        if sock is not None:
            # Wakes a thread that waits in recv, which closing the descriptor would not. Not SSLSocket's own
            # shutdown: after that one, what is still buffered would be read as if it were plain text.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        if self.busy.acquire(blocking=False):
            try:
                self.forget()
            finally:
                self.busy.release()

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed


class _ConnectTimeout(OSError):
    """Told apart from a time-out while receiving, after which asking again may help."""


def _explain(error: Exception) -> tuple[str, bool]:
    """Return what happened in words, and whether asking again may help."""
    if isinstance(error, _ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s", False
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nobody listens there", False
    if isinstance(error, FileNotFoundError):
        return "there is no such socket", False
    if isinstance(error, PermissionError):
        return "no permission to connect to the socket", False
    if isinstance(error, socket.gaierror):
        return f"the host's name cannot be resolved: {error.strerror}", False
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}", False
    if isinstance(error, _STALE):
        return "the connection was closed by the other side", True
    if isinstance(error, http.client.HTTPException):
        return f"that is not an HTTP answer: {type(error).__name__}: {mask_queries(str(error))[:200]}", False
    if isinstance(error, ValueError):
        # http.client's own checks of targets and headers.
        return f"that cannot be asked for: {mask_queries(str(error))[:200]}", False
    return str(error), True


class Response(Body):
    """An answer's head, and its body to be read once.

    Attributes:
        status: HTTP status.
        length: bytes of the body, by Content-Length; 0 where the answer gives none.
        has_length: whether it gives one.
    """

    def __init__(self, connection: Connection, answer: http.client.HTTPResponse, doing: str) -> None:
        self._connection = connection
        self._answer = answer
        # http.client lets go of it at the end of the body, and we read past its back.
        self._stream = answer.fp
        self.doing = doing
        self.status = answer.status
        self.has_length = answer.length is not None
        self.length = answer.length or 0
        self._left = self.length
        # Whether nothing of the body is left in the buffer from which the head was read.
        self._drained = False

    @property
    def source(self) -> str:
        """The source's name, for errors."""
        return self._connection.source

    def header(self, name: str) -> str | None:
        """Return a header's value, or None."""
        return self._answer.headers.get(name)

    def headers(self) -> dict[str, str]:
        """Return all headers, names in lower case; of one that comes twice, the last."""
        return {name.lower(): value for name, value in self._answer.headers.items()}

    def readinto(self, buffer: memoryview) -> int:
        """Receive what is there, at least a byte, at most the buffer; 0 at the end of a body with a length.

        Raises:
            SourceError: cut short, silent for too long, or closed from our side.
        """
        if not self._left:
            return 0
        try:
            # One receive a call: if the next one fails, the caller knows how much is good. readinto1 alone
            # does not see to that: with bytes read ahead, and room beyond its buffer, it waits for more too.
            view = buffer[: self._left if self._drained else min(self._left, _READ_AHEAD_BYTES)]
            with self._connection.busy:
                count = self._stream.readinto1(view)
            self._drained = len(view) >= _READ_AHEAD_BYTES or count < len(view)
        except (OSError, ValueError) as error:
            self._connection.drop()
            raise self._connection.failure(self.doing, error) from error
        if self._connection.is_closed or not count:
            self._connection.drop()
            raise self._cut_short()
        self._left -= count
        return count

    def _cut_short(self) -> SourceError:
        if self._connection.is_closed:
            return SourceError(self.source, self.doing, "it was closed from our side", transient=False)
        got = self.length - self._left
        return SourceError(
            self.source,
            self.doing,
            f"the body was cut short after {got} of {self.length} bytes",
            transient=True,
        )

    def read(self, limit: int) -> bytes:
        """Read the whole body, which must not be longer than limit bytes.

        Raises:
            SourceError: it is longer, or as readinto.
        """
        if not self.has_length:
            return self._read_chunked(limit)
        if self.length > limit:
            raise SourceError(
                self.source,
                self.doing,
                f"the answer has {self.length} bytes: expected at most {limit}",
                transient=False,
            )
        # In steps, so that a length that lies takes no memory.
        data = bytearray()
        step = memoryview(bytearray(min(self.length, _STEP_BYTES)))
        while count := self.readinto(step):
            data += step[:count]
        return bytes(data)

    def _read_chunked(self, limit: int) -> bytes:
        try:
            with self._connection.busy:
                data = self._answer.read(limit + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.drop()
            raise self._connection.failure(self.doing, error) from error
        if len(data) > limit:
            raise SourceError(
                self.source, self.doing, f"the answer is longer than {limit} bytes", transient=False
            )
        return data

    def discard(self) -> None:
        """Read a short body that says nothing, so that the connection stays usable, and close."""
        with self, contextlib.suppress(SourceError):
            self.read(_MAX_DISCARDED_BYTES)

    def close(self) -> None:
        """Let go. The connection serves the next request only if this body was read to its end."""
        with self._connection.busy:
            unfinished = self._left > 0 or not (self.has_length or self._answer.isclosed())
            if unfinished or self._answer.will_close:
                self._connection.forget()
            self._answer.close()
