"""A link to S3, shaped: a proxy of bytes before a real server, as slow to answer and as narrow as S3 is.

    python -m benchmarks.shaping [--first-byte 0.1] [--connection-rate 90e6] [--link-rate 312e6] HOST:PORT
    python -m benchmarks.shaping --ceiling

Bytes go through untouched, so a client that signs for this proxy's address is verified by the server behind
it. What is shaped: the first byte of every answer is held back until so long after its request, and the bytes
of a connection, and of all together, pass at a rate. Bodies go by splice, from socket to socket in the
kernel: at 16 connections of 90 MB/s the proxy must not be what is measured. ``--ceiling`` says how much it
can pass.

It does no more than a benchmark's GETs need: one request at a time on a connection, answers to be shaped.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

__all__ = ["Bucket", "Exchange", "Shape", "Shaper", "ceiling", "parse_request"]

# As much as a pipe may hold without privileges: fewer calls a byte.
_PIPE_BYTES = 1024 * 1024
# One turn of a connection: at 90 MB/s 350 turns a second.
_TURN_BYTES = 256 * 1024
_HEAD_BYTES = 64 * 1024
_CEILING_START_SECONDS = 10.0
_END_OF_HEAD = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r\n")
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Shape:
    """How slow and how narrow.

    Attributes:
        first_byte_seconds: from a request's head to its answer's first byte, at least.
        connection_bytes_per_second: of one connection; None for no limit.
        link_bytes_per_second: of all connections together; None for no limit.
    """

    first_byte_seconds: float = 0.0
    connection_bytes_per_second: float | None = None
    link_bytes_per_second: float | None = None

    def __str__(self) -> str:
        parts = [f"{self.first_byte_seconds * 1000:g} ms to the first byte"]
        if self.connection_bytes_per_second is not None:
            parts.append(f"{self.connection_bytes_per_second / 1e6:g} MB/s a connection")
        if self.link_bytes_per_second is not None:
            parts.append(f"{self.link_bytes_per_second * 8 / 1e9:g} Gbit/s in all")
        return ", ".join(parts)


class Bucket:
    """A token bucket that lends: who takes more than there is waits afterwards. Pure; the caller waits."""

    def __init__(self, bytes_per_second: float, burst_bytes: float, now: float) -> None:
        """Begin full.

        Args:
            bytes_per_second: what flows in.
            burst_bytes: what it holds at most.
            now: seconds of a clock that never goes back.
        """
        self._rate = bytes_per_second
        self._burst = burst_bytes
        self._level = burst_bytes
        self._at = now

    def take(self, count: int, now: float) -> float:
        """Take bytes and return how many seconds to wait before the next ones are taken."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate) - count
        self._at = now
        return max(0.0, -self._level / self._rate)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that went through, and its answer's body.

    Attributes:
        at_seconds: of ``time.perf_counter``, when the request came.
        method, path: without a query, which may hold a signature.
        first, last: of its Range, inclusive; None where it has none.
        body_bytes: of the answer, as far as it has come.
    """

    at_seconds: float
    method: str
    path: str
    first: int | None
    last: int | None
    body_bytes: int


def parse_request(head: bytes) -> tuple[str, str, int | None, int | None]:
    """Return method, path, and first and last byte of the Range; what is no request gives empty texts."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        return "", "", None, None
    path = line[2].partition(b"?")[0].decode("latin-1")
    wanted = _RANGE.search(head)
    first, last = (None, None) if wanted is None else (int(wanted[1]), int(wanted[2]))
    return line[1].decode(), path, first, last


class _Open:
    """An exchange under way."""

    def __init__(self, head: bytes) -> None:
        self.at = time.perf_counter()
        self.request = parse_request(head)
        self.body_bytes = 0
        self.is_answered = False

    def view(self) -> Exchange:
        return Exchange(self.at, *self.request, self.body_bytes)


class Shaper:
    """Passes every connection to its port on to a server; a context manager.

    Attributes:
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self, host: str, port: int, shape: Shape) -> None:
        """Listen at once.

        Args:
            host, port: of the server behind.
            shape: of every connection from now on; may be set anew between measurements.
        """
        self.shape = shape
        self._server = (host, port)
        self._lock = threading.Lock()
        self._link: Bucket | None = None
        self._link_lock = threading.Lock()
        self._exchanges: list[_Open] = []
        self._sockets: set[socket.socket] = set()
        self._open_bodies = 0
        self._most_bodies = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.reset(shape)
        threading.Thread(target=self._accept, name="shaper", daemon=True).start()

    def __enter__(self) -> Shaper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A thread in accept is woken by a shutdown, not by a close.
        _shut(self._listener)
        self._listener.close()
        with self._lock:
            for sock in self._sockets:
                _shut(sock)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    def reset(self, shape: Shape | None = None) -> None:
        """Forget what went through, and take another shape, if one is given."""
        with self._lock:
            self.shape = self.shape if shape is None else shape
            rate = self.shape.link_bytes_per_second
            self._link = None if rate is None else _bucket(rate)
            self._exchanges.clear()
            self._most_bodies = self._open_bodies

    def exchanges(self) -> list[Exchange]:
        """Return what went through since the last reset, in the order of the requests."""
        with self._lock:
            return [item.view() for item in self._exchanges]

    @property
    def body_bytes(self) -> int:
        """Bytes of all bodies since the last reset."""
        with self._lock:
            return sum(item.body_bytes for item in self._exchanges)

    @property
    def most_at_once(self) -> int:
        """The most answers that were under way at the same time since the last reset."""
        with self._lock:
            return self._most_bodies

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._server)
            except OSError:
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {near, far}
            _Connection(self, near, far).start()

    # What connections call.

    def asked(self, head: bytes) -> _Open:
        """Note a request."""
        item = _Open(head)
        with self._lock:
            self._exchanges.append(item)
            self._open_bodies += 1
            self._most_bodies = max(self._most_bodies, self._open_bodies)
        return item

    def ended(self) -> None:
        """Note that an answer has ended: its connection's next request came, or its end."""
        with self._lock:
            self._open_bodies -= 1

    def wait_for_link(self, count: int) -> None:
        """Take bytes of the link and wait for them."""
        link = self._link
        if link is not None:
            with self._link_lock:
                pause = link.take(count, time.perf_counter())
            if pause:
                time.sleep(pause)

    def forget(self, *sockets: socket.socket) -> None:
        """Close the sockets of a connection that has ended."""
        with self._lock:
            self._sockets.difference_update(sockets)
        for sock in sockets:
            sock.close()


class _Connection:
    """One connection: a thread for requests, and one for answers, which ends it."""

    def __init__(self, shaper: Shaper, near: socket.socket, far: socket.socket) -> None:
        self._shaper = shaper
        self._near = near
        self._far = far
        self._current: _Open | None = None

    def start(self) -> None:
        threading.Thread(target=self._requests, daemon=True).start()
        threading.Thread(target=self._answers, daemon=True).start()

    def _requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._near.recv(_HEAD_BYTES):
                # A head in several parts, or a body, belongs to the request that is not answered yet.
                if self._current is None or self._current.is_answered:
                    if self._current is not None:
                        self._shaper.ended()
                    self._current = self._shaper.asked(data)
                self._far.sendall(data)
        # The reader is gone: what the server still sends is for nobody.
        _shut(self._far)

    def _answers(self) -> None:
        outlet, inlet = _pipe()
        try:
            self._pass(outlet, inlet)
        except OSError:
            pass
        finally:
            _shut(self._near)
            _shut(self._far)
            os.close(inlet)
            os.close(outlet)
            if self._current is not None:
                self._shaper.ended()
            self._shaper.forget(self._near, self._far)

    def _pass(self, outlet: int, inlet: int) -> None:
        readable = select.poll()
        readable.register(self._far, select.POLLIN)
        far, near = self._far.fileno(), self._near.fileno()
        rate: float | None = None
        bucket: Bucket | None = None
        served: _Open | None = None
        while True:
            # A request is noted before the server has it. So what can be read by now is of that one's answer,
            # if it is not the one that is being passed.
            readable.poll()
            if served is None or served is not self._current:
                served, count = self._begin(served)
                if rate != self._shaper.shape.connection_bytes_per_second:
                    rate = self._shaper.shape.connection_bytes_per_second
                    bucket = None if rate is None else _bucket(rate)
            else:
                count = os.splice(far, inlet, _TURN_BYTES, flags=os.SPLICE_F_MOVE)
                _drain(outlet, near, count)
                served.body_bytes += count
            if not count:
                return
            self._shaper.wait_for_link(count)
            pause = 0.0 if bucket is None else bucket.take(count, time.perf_counter())
            if pause:
                time.sleep(pause)

    def _begin(self, before: _Open | None) -> tuple[_Open | None, int]:
        """Pass the head of an answer on, when its time has come."""
        data = self._far.recv(_HEAD_BYTES)
        current = self._current
        if current is None or current is before:
            # Nobody has asked: the server ends the connection, or says why.
            self._near.sendall(data)
            return before, len(data)
        while data and _END_OF_HEAD not in data and len(data) < _HEAD_BYTES:
            more = self._far.recv(_HEAD_BYTES)
            data += more
            if not more:
                break
        pause = current.at + self._shaper.shape.first_byte_seconds - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        current.is_answered = True
        _, _, body = data.partition(_END_OF_HEAD)
        current.body_bytes = len(body)
        self._near.sendall(data)
        return current, len(data)


def _bucket(rate: float) -> Bucket:
    # Hardly more than a turn: an answer that follows a pause must not have its first megabyte for nothing.
    return Bucket(rate, max(rate / 400, _TURN_BYTES), time.perf_counter())


def _pipe() -> tuple[int, int]:
    outlet, inlet = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return outlet, inlet


def _drain(outlet: int, sink: int, count: int) -> None:
    while count:
        count -= os.splice(outlet, sink, count, flags=os.SPLICE_F_MOVE)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def ceiling(connections: int, shape: Shape, seconds: float) -> tuple[float, float]:
    """Measure what a shaper passes between a server that sends zeros and readers that throw them away.

    Server and readers are processes of their own, and take their CPU from the same machine.

    Returns:
        Bytes a second, and CPU seconds of the shaper a GB.
    """
    server = socket.create_server(("127.0.0.1", 0), backlog=connections)
    listening, tell = os.pipe()
    # Both before there are threads.
    children = [
        _fork(lambda: _send_zeros(server, connections)),
        _fork(lambda: _read_for(int(os.read(listening, 16)), connections)),
    ]
    try:
        with Shaper("127.0.0.1", server.getsockname()[1], shape) as shaper:
            os.write(tell, str(shaper.port).encode())
            deadline = time.perf_counter() + _CEILING_START_SECONDS
            while shaper.body_bytes == 0 and time.perf_counter() < deadline:
                time.sleep(0.01)
            began, before, cpu = time.perf_counter(), shaper.body_bytes, time.process_time()
            time.sleep(seconds)
            passed = shaper.body_bytes - before
            return passed / (time.perf_counter() - began), (time.process_time() - cpu) / max(passed, 1) * 1e9
    finally:
        server.close()
        os.close(listening)
        os.close(tell)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def _send_zeros(server: socket.socket, connections: int) -> None:
    zeros = memoryview(bytes(_PIPE_BYTES))

    def run() -> None:
        sock, _ = server.accept()
        sock.recv(_HEAD_BYTES)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(zeros)

    _in_threads(run, connections)


def _read_for(port: int, connections: int) -> None:
    def run() -> None:
        buffer = bytearray(_PIPE_BYTES)
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while sock.recv_into(buffer):
                pass

    _in_threads(run, connections)


def _in_threads(run: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> int:
    """Shape until interrupted, or print the ceiling."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("server", nargs="?", metavar="HOST:PORT")
    parser.add_argument("--first-byte", type=float, default=0.1, metavar="SECONDS")
    parser.add_argument("--connection-rate", type=float, default=90e6, metavar="BYTES_PER_SECOND")
    parser.add_argument("--link-rate", type=float, default=None, metavar="BYTES_PER_SECOND")
    parser.add_argument("--ceiling", action="store_true", help="measure what it can pass, and end")
    arguments = parser.parse_args()
    shape = Shape(arguments.first_byte, arguments.connection_rate, arguments.link_rate)
    if arguments.ceiling:
        for connections in (1, 4, 16):
            for name, what in (("no rate", Shape()), (str(shape), shape)):
                rate, cpu = ceiling(connections, what, 2.0)
                print(f"{connections:3} connections, {name}: {rate / 1e9:.2f} GB/s, {cpu:.2f} CPU s a GB")
        return 0
    host, _, port = (arguments.server or "").rpartition(":")
    if not host or not port.isdigit():
        parser.error("HOST:PORT of the server behind is missing")
    with Shaper(host, int(port), shape) as shaper:
        print(f"{shaper.url}: {shape}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
