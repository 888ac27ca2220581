"""What a premium reader feels of others: python benchmarks/tiers.py [--readers N] [--rounds N].

One proxy, one warm file, a Unix socket. The premium reader is measured alone, beside N readers of tier batch
that ask without a pause, and beside N readers of tier standard, in turns within every round, so that a noisy
machine is noisy for all three. First byte: of 64 KiB ranges. Throughput: of the whole file.
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

import hotstart

_TARGET = "/v1/models/org/bench@1/weights.bin"
_SMALL_BYTES = 64 * 1024
_SMALL_REQUESTS = 40
_BUFFER_BYTES = 1024 * 1024
_START_SECONDS = 60.0
_SETTLE_SECONDS = 0.3
# What the neighbours are, and None for none.
_ARMS = (None, "batch", "standard")


class UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_START_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def read(connection: UnixConnection, tier: str, last: int, buffer: memoryview) -> tuple[float, float]:
    """Read bytes 0 to last; return seconds to the first and to the last byte."""
    began = time.perf_counter()
    connection.request("GET", _TARGET, headers={"X-Latency-Tier": tier, "Range": f"bytes=0-{last}"})
    response = connection.getresponse()
    if response.status != 206:
        raise SystemExit(f"HTTP {response.status}: {response.read(1000)!r}")
    first = None
    while response.readinto(buffer):
        first = first or time.perf_counter() - began
    return first or 0.0, time.perf_counter() - began


def hammer(path: str, readers: int, tier: str, last: int) -> None:
    """Read the file again and again with so many connections, until killed."""

    def run() -> None:
        connection, buffer = UnixConnection(path), memoryview(bytearray(_BUFFER_BYTES))
        while True:
            read(connection, tier, last, buffer)

    threads = [threading.Thread(target=run) for _ in range(readers)]
    for thread in threads:
        thread.start()
    print("hammering", flush=True)
    for thread in threads:
        thread.join()


@contextmanager
def neighbours(path: str, readers: int, tier: str | None, last: int) -> Iterator[None]:
    """Have them inside; a process of their own."""
    if tier is None:
        yield
        return
    command = [sys.executable, __file__, "--hammer", path, str(readers), tier, str(last)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        # Until all of them have sockets full of bytes.
        time.sleep(_SETTLE_SECONDS)
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


@contextmanager
def serving(folder: Path, mebibytes: int) -> Iterator[str]:
    """Publish a file and serve it; gives the socket's path."""
    model = folder / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(random.Random(1).randbytes(1 << 20) * mebibytes)
    (folder / "origin").mkdir()
    origin = f"file://{folder / 'origin'}"
    command = str(Path(sys.executable).with_name("hotstart"))
    publish = [command, "publish", str(model), "org/bench@1", "--origin", origin]
    subprocess.run(publish, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = str(folder / "s.sock")
    log = ["--log-level", "error", "--batch-requests", "1000"]
    serve = [command, "serve", "--origin", origin, "--store", f"disk:{folder / 'store'}"]
    process = subprocess.Popen([*serve, "--listen", f"unix:{path}", *log], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield path
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def show(name: str, unit: str, figures: dict[str | None, list[float]], *, more_is_better: bool) -> None:
    """Print the medians, their ratio to the reader alone, and the raw numbers."""
    alone = statistics.median(figures[None])
    print(f"{name}, {unit}" + (" (more is better)" if more_is_better else " (less is better)"))
    for tier, values in figures.items():
        median = statistics.median(values)
        where = "alone" if tier is None else f"beside {tier}"
        raw = " ".join(f"{value:.3g}" for value in values)
        print(f"  {where:<16} median {median:8.3g}   {median / alone:6.2f} of alone   raw {raw}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--hammer", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hammer:
        path, readers, tier, last = arguments.hammer
        hammer(path, int(readers), tier, int(last))
        return
    last = arguments.mebibytes * (1 << 20) - 1
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, ", end="")
    print(f"aiohttp {aiohttp.__version__}, hotstart {hotstart.__version__}")
    print(f"{arguments.readers} neighbours, {arguments.mebibytes} MiB, {arguments.rounds} rounds")
    firsts: dict[str | None, list[float]] = {arm: [] for arm in _ARMS}
    rates: dict[str | None, list[float]] = {arm: [] for arm in _ARMS}
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), arguments.mebibytes) as path:
        connection = UnixConnection(path)
        read(connection, "premium", last, buffer)
        for _ in range(arguments.rounds):
            for arm in _ARMS:
                with neighbours(path, arguments.readers, arm, last):
                    small = [
                        read(connection, "premium", _SMALL_BYTES - 1, buffer)[0] * 1000
                        for _ in range(_SMALL_REQUESTS)
                    ]
                    firsts[arm].append(statistics.median(small))
                    rates[arm].append((last + 1) / read(connection, "premium", last, buffer)[1] / 1e9)
    show("first byte of 64 KiB", "milliseconds", firsts, more_is_better=False)
    show("throughput", "GB/s", rates, more_is_better=True)


if __name__ == "__main__":
    main()
