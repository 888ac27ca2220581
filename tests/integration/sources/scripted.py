"""A raw HTTP server for faults that real servers do not make on demand: it answers what the test says."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.support.deadlines import DEADLINE_SECONDS

_MAX_HEAD_BYTES = 64 * 1024
# SO_LINGER with time 0: close() sends RST at once.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived; header names in lower case.

    Attributes:
        connection: which one, counted from 1.
    """

    connection: int
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send, and how to fail at it.

    Attributes:
        headers: Content-Length is added unless it is there, or None to leave it out.
        cut_after: close after so many bytes of the body.
        hang_after: send so many bytes of the body, then nothing until the server stops.
        reset: close with RST.
        close: close after the answer, without having said so.
        raw: instead of head and body, these bytes.
    """

    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    hang_after: int | None = None
    reset: bool = False
    close: bool = False
    raw: bytes | None = None


class ScriptedServer:
    """Listens on 127.0.0.1 or a Unix socket; answers each request with what a function returns."""

    def __init__(
        self,
        answer: Callable[[Request], Answer],
        socket_path: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer
        self._tls = tls
        self.requests: list[Request] = []
        self._stopping = threading.Event()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        if socket_path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            scheme = "http" if tls is None else "https"
            self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(socket_path))
            self._listener.listen()
            self.url = f"unix:{socket_path}"

    def __enter__(self) -> ScriptedServer:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        for sock in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return len(self._connections)

    def _start(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            number = len(self._connections)
            self._start(functools.partial(self._serve, connection, number))

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._connections[number - 1] = connection
            while True:
                request = _receive(connection, number)
                if request is None:
                    break
                self.requests.append(request)
                if not self._send(connection, self.answer(request)):
                    break
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _send(self, connection: socket.socket, answer: Answer) -> bool:
        if answer.raw is not None:
            connection.sendall(answer.raw)
            if answer.hang_after is not None:
                self._stopping.wait(DEADLINE_SECONDS)
            return False
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        head = [f"HTTP/1.1 {answer.status} Scripted"]
        head += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        body = answer.body[: answer.cut_after]
        if answer.hang_after is not None:
            body = answer.body[: answer.hang_after]
        connection.sendall(body)
        if answer.hang_after is not None:
            self._stopping.wait(DEADLINE_SECONDS)
            return False
        if answer.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()
            return False
        return answer.cut_after is None and not answer.close


def _receive(connection: socket.socket, number: int) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(_MAX_HEAD_BYTES)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(_MAX_HEAD_BYTES)
    return Request(number, method, target, headers, body)
