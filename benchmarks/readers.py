"""Readers of ranges: the load that servers are measured under, as a process of its own.

``python -m benchmarks.readers`` takes a ``Load`` as JSON on standard input and prints an ``Outcome``. It
speaks as little HTTP as it takes, the same for every server: requests are made up beforehand, bodies are
received into memory that is used again, nothing is parsed but the status and the length.

Large ranges: a thread a connection on blocking sockets, since receiving releases the interpreter's lock. Many
connections: one thread with epoll, since so many threads would measure how they wait for that lock.
"""

from __future__ import annotations

import json
import random
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from benchmarks.harness.folders import REPOSITORY
from benchmarks.harness.processes import BenchmarkFailed
from benchmarks.harness.statistics import percentile

__all__ = ["Load", "Outcome", "Pattern", "apply"]

# in order: one reading of the file, whose ranges the connections share out, by threads. shuffled: the same in
# random order, by epoll. each: every connection reads all of the file, by epoll.
Pattern: TypeAlias = Literal["in order", "shuffled", "each"]

# By epoll, bodies longer than this are received over and over into the same memory.
_EPOLL_BUFFER_BYTES = 256 * 1024
_HEAD_BYTES = 4096
_HEAD = re.compile(
    rb"HTTP/1\.1 206 .*?\r\nContent-Length: (\d+)(?=\r\n).*?\r\n\r\n", re.DOTALL | re.IGNORECASE
)
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What to read.

    Attributes:
        address: ``HOST:PORT``, or the path of a Unix socket.
        path: of the URL.
        size_bytes: of the file.
        range_bytes: of each request; the file is read in such ranges.
        requests: how many in all, or of each connection where each reads all; beyond the file's end they
            begin again.
        connections: how many at a time.
        pattern: who asks for what.
    """

    address: str
    path: str
    size_bytes: int
    range_bytes: int
    requests: int
    connections: int
    pattern: Pattern = "in order"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it took.

    Attributes:
        seconds: from the first request, all connections being open, to the last byte.
        body_bytes: of all answers.
        p50_seconds, p99_seconds: from a request to the last byte of its answer.
    """

    seconds: float
    body_bytes: int
    p50_seconds: float
    p99_seconds: float

    @property
    def gigabytes_per_second(self) -> float:
        return self.body_bytes / self.seconds / 1e9


def apply(load: Load) -> Outcome:
    """Read in another process, and return what it took.

    Raises:
        BenchmarkFailed: a server did not answer as it should.
    """
    command = [sys.executable, "-m", "benchmarks.readers"]
    text = json.dumps(asdict(load))
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"reading from {load.address} failed: {done.stderr.strip().splitlines()[-1]}")
    return Outcome(**json.loads(done.stdout))


# In the other process


def connect(address: str) -> socket.socket:
    """Return a connected blocking socket."""
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_TIMEOUT_SECONDS)
        sock.connect(address)
        return sock
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), _TIMEOUT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def requests(load: Load) -> Iterator[bytes]:
    """Yield all requests, in order."""
    starts = list(range(0, load.size_bytes, load.range_bytes))
    if load.pattern == "shuffled":
        random.Random(1).shuffle(starts)
    for number in range(load.requests):
        start = starts[number % len(starts)]
        last = min(start + load.range_bytes, load.size_bytes) - 1
        yield f"GET {load.path} HTTP/1.1\r\nHost: bench\r\nRange: bytes={start}-{last}\r\n\r\n".encode()


def answer(buffer: bytearray, received: int) -> tuple[int, int] | None:
    """Return the lengths of head and body of the answer in buffer; None while the head is not whole.

    Raises:
        BenchmarkFailed: it is no 206 with a length.
    """
    end = buffer.find(b"\r\n\r\n", 0, min(received, _HEAD_BYTES))
    if end < 0 and received < _HEAD_BYTES:
        return None
    head = _HEAD.match(buffer, 0, end + 4)
    if head is None:
        raise BenchmarkFailed(f"not a 206 with a length: {bytes(buffer[: min(received, 200)])!r}")
    return end + 4, int(head[1])


def ask(sock: socket.socket, request: bytes, buffer: bytearray, view: memoryview) -> int:
    """Send a request, receive all of the answer into buffer, and return the length of its body."""
    sock.sendall(request)
    received, lengths = 0, None
    while lengths is None or received < sum(lengths):
        count = sock.recv_into(view[received:])
        if not count:
            raise BenchmarkFailed("the server closed the connection in the middle of an answer")
        received += count
        if lengths is None:
            lengths = answer(buffer, received)
    return lengths[1]


@dataclass(slots=True)
class _Tally:
    body_bytes: int
    latencies: list[float]


def by_threads(load: Load) -> tuple[float, _Tally]:
    """Read with a thread a connection; return seconds and what was read."""
    todo = requests(load)
    lock = threading.Lock()
    # Whoever comes last reads the clock, before anyone goes on.
    started: list[float] = []
    gate = threading.Barrier(load.connections, lambda: started.append(time.perf_counter()))
    tally = _Tally(0, [])
    failures: list[Exception] = []

    def run() -> None:
        try:
            buffer = bytearray(load.range_bytes + _HEAD_BYTES)
            view = memoryview(buffer)
            with connect(load.address) as sock:
                # One small answer, so that nothing is done for the first time while time is taken.
                first = f"GET {load.path} HTTP/1.1\r\nHost: bench\r\nRange: bytes=0-0\r\n\r\n"
                ask(sock, first.encode(), buffer, view)
                gate.wait(_TIMEOUT_SECONDS)
                while True:
                    with lock:
                        request = next(todo, None)
                    if request is None:
                        return
                    began = time.perf_counter()
                    body = ask(sock, request, buffer, view)
                    took = time.perf_counter() - began
                    with lock:
                        tally.body_bytes += body
                        tally.latencies.append(took)
        except (OSError, BenchmarkFailed, threading.BrokenBarrierError) as error:
            failures.append(error)
            gate.abort()

    threads = [threading.Thread(target=run) for _ in range(load.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = time.perf_counter()
    if failures:
        raise failures[0]
    return ended - started[0], tally


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    todo: Iterator[bytes]
    buffer: bytearray
    view: memoryview
    began: float = 0.0
    received: int = 0
    lengths: tuple[int, int] | None = None

    def receive(self) -> bool:
        """Receive what is there; tell whether the answer is whole."""
        # Of a body longer than the buffer the rest goes where the beginning was.
        start = self.received if self.received < len(self.view) else 0
        count = self.sock.recv_into(self.view[start:])
        if not count:
            raise BenchmarkFailed("the server closed the connection in the middle of an answer")
        self.received += count
        if self.lengths is None:
            self.lengths = answer(self.buffer, self.received)
        return self.lengths is not None and self.received == sum(self.lengths)


def by_epoll(load: Load) -> tuple[float, _Tally]:
    """Read with one thread; return seconds and what was read."""
    shared = requests(load)
    tally = _Tally(0, [])
    poll = select.epoll()
    connections: dict[int, _Connection] = {}
    for _ in range(load.connections):
        sock = connect(load.address)
        buffer = bytearray(min(load.range_bytes, _EPOLL_BUFFER_BYTES) + _HEAD_BYTES)
        todo = requests(load) if load.pattern == "each" else shared
        connections[sock.fileno()] = _Connection(sock, todo, buffer, memoryview(buffer))
        poll.register(sock, select.EPOLLIN)

    def begin(connection: _Connection) -> None:
        request = next(connection.todo, None)
        if request is None:
            poll.unregister(connection.sock)
            connections.pop(connection.sock.fileno()).sock.close()
            return
        connection.began, connection.received, connection.lengths = time.perf_counter(), 0, None
        connection.sock.sendall(request)

    began = time.perf_counter()
    for connection in list(connections.values()):
        begin(connection)
    while connections:
        events = poll.poll(_TIMEOUT_SECONDS)
        if not events:
            raise BenchmarkFailed("no answer in a minute")
        for number, _ in events:
            connection = connections[number]
            if connection.receive():
                assert connection.lengths is not None
                tally.latencies.append(time.perf_counter() - connection.began)
                tally.body_bytes += connection.lengths[1]
                begin(connection)
    poll.close()
    return time.perf_counter() - began, tally


def main() -> None:
    """Read the load, do it, print the outcome."""
    load = Load(**json.load(sys.stdin))
    seconds, tally = by_threads(load) if load.pattern == "in order" else by_epoll(load)
    outcome = Outcome(
        seconds, tally.body_bytes, percentile(tally.latencies, 50), percentile(tally.latencies, 99)
    )
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
