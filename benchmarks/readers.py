"""Readers of ranges: the load that servers are measured under, as a process of its own.

``python -m benchmarks.readers`` takes a ``Load`` as JSON on standard input and prints an ``Outcome``. It
speaks as little HTTP as it takes, the same for every server: requests are made up beforehand, bodies are
received into memory that is used again, nothing is parsed but the status and the length.

Large ranges: a thread a connection on blocking sockets, since receiving releases the interpreter's lock. Many
connections with small ranges: one thread with epoll, since so many threads would measure how they wait for
that lock.
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
from contextlib import suppress
from dataclasses import asdict, dataclass

from benchmarks.harness.folders import REPOSITORY
from benchmarks.harness.processes import BenchmarkFailed
from benchmarks.harness.statistics import percentile

__all__ = ["Load", "Outcome", "apply"]

_HEAD_BYTES = 4096
_HEAD = re.compile(rb"HTTP/1\.1 206 .*?\r\nContent-Length: (\d+)\r\n.*?\r\n\r\n", re.DOTALL | re.IGNORECASE)
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What to read.

    Attributes:
        address: ``HOST:PORT``, or the path of a Unix socket.
        path: of the URL.
        size_bytes: of the file.
        range_bytes: of each request; the file is read in such ranges.
        requests: how many in all, whichever connections take them; beyond the file's end they begin again.
        connections: how many at a time.
        shuffled: in random order, and by epoll; else in order, by threads.
    """

    address: str
    path: str
    size_bytes: int
    range_bytes: int
    requests: int
    connections: int
    shuffled: bool = False


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
    if load.shuffled:
        random.Random(1).shuffle(starts)
    for number in range(load.requests):
        start = starts[number % len(starts)]
        last = min(start + load.range_bytes, load.size_bytes) - 1
        yield f"GET {load.path} HTTP/1.1\r\nHost: bench\r\nRange: bytes={start}-{last}\r\n\r\n".encode()


def answer_bytes(buffer: bytearray, received: int) -> int | None:
    """Return the length of the answer that begins in buffer, head included; None while the head is not whole.

    Raises:
        BenchmarkFailed: it is no 206 with a length.
    """
    end = buffer.find(b"\r\n\r\n", 0, min(received, _HEAD_BYTES))
    if end < 0 and received < _HEAD_BYTES:
        return None
    head = _HEAD.match(buffer, 0, end + 4)
    if head is None:
        raise BenchmarkFailed(f"not a 206 with a length: {bytes(buffer[: min(received, 200)])!r}")
    return end + 4 + int(head[1])


def ask(sock: socket.socket, request: bytes, buffer: bytearray, view: memoryview) -> int:
    """Send a request, receive all of the answer into buffer, and return its length, head included."""
    sock.sendall(request)
    received, wanted = 0, None
    while wanted is None or received < wanted:
        count = sock.recv_into(view[received:wanted])
        if not count:
            raise BenchmarkFailed("the server closed the connection in the middle of an answer")
        received += count
        if wanted is None:
            wanted = answer_bytes(buffer, received)
    return received


@dataclass(slots=True)
class _Tally:
    body_bytes: int
    latencies: list[float]


def by_threads(load: Load) -> tuple[float, _Tally]:
    """Read with a thread a connection; return seconds and what was read."""
    todo = requests(load)
    lock = threading.Lock()
    gate = threading.Barrier(load.connections + 1)
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
                    received = ask(sock, request, buffer, view)
                    took = time.perf_counter() - began
                    with lock:
                        tally.body_bytes += received - (buffer.find(b"\r\n\r\n") + 4)
                        tally.latencies.append(took)
        except (OSError, BenchmarkFailed, threading.BrokenBarrierError) as error:
            failures.append(error)
            gate.abort()

    threads = [threading.Thread(target=run) for _ in range(load.connections)]
    for thread in threads:
        thread.start()
    # A thread that failed broke it, and its reason is raised below.
    with suppress(threading.BrokenBarrierError):
        gate.wait(_TIMEOUT_SECONDS)
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    return seconds, tally


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    buffer: bytearray
    view: memoryview
    began: float = 0.0
    received: int = 0
    wanted: int | None = None


def by_epoll(load: Load) -> tuple[float, _Tally]:
    """Read with one thread; return seconds and what was read."""
    todo = requests(load)
    tally = _Tally(0, [])
    poll = select.epoll()
    connections: dict[int, _Connection] = {}
    for _ in range(load.connections):
        sock = connect(load.address)
        buffer = bytearray(load.range_bytes + _HEAD_BYTES)
        connections[sock.fileno()] = _Connection(sock, buffer, memoryview(buffer))

    def begin(connection: _Connection) -> None:
        request = next(todo, None)
        if request is None:
            poll.unregister(connection.sock)
            connections.pop(connection.sock.fileno()).sock.close()
            return
        connection.began, connection.received, connection.wanted = time.perf_counter(), 0, None
        connection.sock.sendall(request)

    began = time.perf_counter()
    for number, connection in list(connections.items()):
        poll.register(number, select.EPOLLIN)
        begin(connection)
    while connections:
        events = poll.poll(_TIMEOUT_SECONDS)
        if not events:
            raise BenchmarkFailed("no answer in a minute")
        for number, _ in events:
            connection = connections[number]
            count = connection.sock.recv_into(connection.view[connection.received :])
            if not count:
                raise BenchmarkFailed("the server closed the connection in the middle of an answer")
            connection.received += count
            if connection.wanted is None:
                connection.wanted = answer_bytes(connection.buffer, connection.received)
            if connection.received == connection.wanted:
                tally.latencies.append(time.perf_counter() - connection.began)
                tally.body_bytes += connection.wanted - (connection.buffer.find(b"\r\n\r\n") + 4)
                begin(connection)
    poll.close()
    return time.perf_counter() - began, tally


def main() -> None:
    """Read the load, do it, print the outcome."""
    load = Load(**json.load(sys.stdin))
    seconds, tally = by_epoll(load) if load.shuffled else by_threads(load)
    outcome = Outcome(
        seconds, tally.body_bytes, percentile(tally.latencies, 50), percentile(tally.latencies, 99)
    )
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
