"""What a premium reader feels of others: ``python -m benchmarks.tiers``.

One proxy, one warm file, a Unix socket. The premium reader is measured alone, beside N readers of tier batch
that ask without a pause, and beside N readers of tier standard, in turns within every round, so that a noisy
machine is noisy for all three. First byte: of 64 KiB ranges. Throughput: of the whole file.
"""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

from benchmarks.harness.command import main
from benchmarks.harness.folders import REPOSITORY, workplace
from benchmarks.harness.pagecache import WARM
from benchmarks.harness.processes import BenchmarkFailed
from benchmarks.harness.profile import MiB, Profile
from benchmarks.harness.publish import REFERENCE, served
from benchmarks.harness.results import Results
from benchmarks.harness.rounds import interleave
from benchmarks.harness.weights import WEIGHTS_FILE, tiled

SUMMARY = "What a reader of tier premium feels of eight others that ask for the whole file without a pause."

# As the first argument: be the neighbours, until killed.
CHILD = "--hammer"
_READERS = 8
_TARGET = f"/v1/models/{REFERENCE}/{WEIGHTS_FILE}"
_SMALL_BYTES = 64 * 1024
_BUFFER_BYTES = 1024 * 1024
_START_SECONDS = 60.0
_SETTLE_SECONDS = 0.3
# The tier of the neighbours, and None for none.
_ARMS = {"alone": None, "beside batch": "batch", "beside standard": "standard"}


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
        raise BenchmarkFailed(f"HTTP {response.status}: {response.read(1000)!r}")
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
    command = [sys.executable, "-m", "benchmarks.tiers", CHILD, path, str(readers), tier, str(last)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)
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


def run(profile: Profile, results: Results) -> None:
    """Measure, in turns, and compare with the reader alone."""
    size = profile.pick(quick=16, bench=256, full=1024) * MiB
    small_requests = profile.pick(quick=10, bench=40, full=40)
    rounds = profile.pick(quick=1, bench=3, full=9)
    with workplace("tiers") as folder, served(tiled(size), folder, "--batch-requests", "1000") as proxy:
        path = str(proxy.unix)
        connection, buffer = UnixConnection(path), memoryview(bytearray(_BUFFER_BYTES))
        read(connection, "premium", size - 1, buffer)

        def measured(tier: str | None) -> tuple[float, float]:
            with neighbours(path, _READERS, tier, size - 1):
                small = [
                    read(connection, "premium", _SMALL_BYTES - 1, buffer)[0] for _ in range(small_requests)
                ]
                return median(small) * 1000, size / read(connection, "premium", size - 1, buffer)[1] / 1e9

        figures = interleave({arm: partial(measured, tier) for arm, tier in _ARMS.items()}, rounds)
        connection.close()
    for arm, pairs in figures.items():
        facts = {"neighbours": _READERS, "page_cache": WARM}
        results.add("tiers", "first byte of 64 KiB", arm, [first for first, _ in pairs], "ms", **facts)
        results.add("tiers", f"{size // MiB} MiB", arm, [rate for _, rate in pairs], "GB/s", **facts)


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        path, readers, tier, last = sys.argv[2:]
        hammer(path, int(readers), tier, int(last))
    else:
        sys.exit(main("tiers", SUMMARY, run))
