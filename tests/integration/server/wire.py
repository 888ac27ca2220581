"""A client that writes and reads the very bytes of HTTP/1.1, for what http.client would not send."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.deadlines import DEADLINE_SECONDS

__all__ = ["Answer", "Ended", "Wire", "ask", "connected"]


class Ended(AssertionError):
    """The server ended the connection before a whole answer was there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    def problem(self, status: int, code: str) -> Any:
        """Check that this is a problem document of that status and code, and return it."""
        assert self.status == status, (self.status, self.body)
        assert self.headers["content-type"] == "application/problem+json"
        document = self.json()
        assert (document["status"], document["code"]) == (status, code)
        assert document["detail"]
        return document


class Wire:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def send(self, data: bytes | str) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def request(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> None:
        """Send a request head."""
        lines = [f"{method} {target} HTTP/1.1", "Host: proxy"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.send("\r\n".join([*lines, "", ""]))

    def answer(self, method: str = "GET") -> Answer:
        """Read one whole answer to a request of that method."""
        status, headers = self.head()
        length = 0 if method == "HEAD" or status in (204, 304) else int(headers["content-length"])
        return Answer(status, headers, self.exactly(length))

    def head(self) -> tuple[int, dict[str, str]]:
        """Read status and headers."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        text, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        first, *lines = text.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines), f"a header stands twice in {lines}"
        return int(first.split(" ")[1]), {name.lower(): value for name, value in headers.items()}

    def exactly(self, length: int) -> bytes:
        """Read that many bytes of a body."""
        body = bytearray(self._buffer[:length])
        self._buffer = self._buffer[length:]
        while len(body) < length:
            data = self.sock.recv(min(1 << 20, length - len(body)))
            if not data:
                raise Ended(f"{len(body)} of {length} bytes arrived")
            body += data
        return bytes(body)

    def until_end(self) -> bytes:
        """Read until the server ends the connection."""
        data, self._buffer = bytearray(self._buffer), b""
        try:
            while chunk := self.sock.recv(1 << 20):
                data += chunk
        except ConnectionResetError:
            pass
        return bytes(data)

    def _more(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise Ended(f"ended after {self._buffer!r}")
        self._buffer += data


@contextmanager
def connected(place: int | Path, receive_buffer: int | None = None) -> Iterator[Wire]:
    """Connect to a port of 127.0.0.1 or a Unix socket.

    Args:
        place: port or path.
        receive_buffer: bytes that the kernel may hold back for us, so that a slow reader is felt soon.
    """
    sock = socket.socket(socket.AF_INET if isinstance(place, int) else socket.AF_UNIX)
    with sock:
        sock.settimeout(DEADLINE_SECONDS)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(("127.0.0.1", place) if isinstance(place, int) else str(place))
        yield Wire(sock)


def ask(
    place: int | Path, target: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> Answer:
    """Send one request on a connection of its own and return the answer."""
    with connected(place) as wire:
        wire.request(method, target, headers)
        return wire.answer(method)
