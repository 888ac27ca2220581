"""How many connections, and ranges of what size: ``python -m benchmarks.engine``.

What the client's constants were chosen by. A proxy over TCP and over a Unix socket is measured in CPU seconds
a GB and in GB/s, a child process a load. S3 is a source in memory that gives every connection 88 MB/s and the
first byte after 100 ms: what counts there is how the time falls with the connections.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import hotstart
from benchmarks.harness.command import main
from benchmarks.harness.folders import workplace
from benchmarks.harness.pagecache import WARM
from benchmarks.harness.processes import BenchmarkFailed, clean_environment
from benchmarks.harness.profile import MiB, Profile
from benchmarks.harness.publish import REFERENCE, served
from benchmarks.harness.results import Results
from benchmarks.harness.rounds import interleave
from benchmarks.harness.weights import tiled
from hotstart import loading
from hotstart.engine import transfer
from hotstart.engine.planning import Verification
from hotstart.engine.targets import Target
from hotstart.engine.transfer import Transfer
from hotstart.sources.base import Body, Session, Source, SourceKind
from hotstart.sources.chain import Chain
from hotstart.wire.manifest import File, OriginObject, Representation
from hotstart.wire.ranges import ByteRange

SUMMARY = "How the client's connections and ranges were chosen: CPU a GB near by, time at the pace of S3."

# As the first argument: load once, and print what it took.
CHILD = "--load"
_PACE = 88e6
_FIRST_BYTE_SECONDS = 0.1
_STEP_BYTES = 256 * 1024


class _Memory(Target):
    """A file whose bytes are received over each other: memory plays no part."""

    def __init__(self, file: File, item_bytes: int) -> None:
        super().__init__(file)
        self.item_bytes = item_bytes
        self._memory = memoryview(bytearray(item_bytes))

    def begin(self) -> list[ByteRange]:
        self._is_planned = True
        return self._plan([ByteRange(0, self.file.size)])

    def window(self, wanted: ByteRange) -> memoryview:
        return self._memory[: len(wanted)]


class _PacedBody(Body):
    def __init__(self, length: int) -> None:
        self.length = self._left = length
        self._due = time.perf_counter() + _FIRST_BYTE_SECONDS

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), self._left, _STEP_BYTES)
        self._due += count / _PACE
        time.sleep(max(0.0, self._due - time.perf_counter()))
        self._left -= count
        return count

    def close(self) -> None:
        pass


class _PacedSession(Session):
    def fetch(self, file: File, representation: Representation, wanted: ByteRange) -> Body:
        return _PacedBody(len(wanted))

    def close(self) -> None:
        pass


class PacedSource(Source):
    """Gives every connection the pace of S3's, and bytes that nobody looks at."""

    kind = SourceKind.ORIGIN
    name = "paced"

    def has(self, representation: Representation) -> bool:
        return True

    def session(self) -> Session:
        return _PacedSession()


def paced_seconds(size: int, connections: int | None, item_bytes: int) -> float:
    """Return how long a file takes from the paced source; None lets the engine choose."""
    file = File("weights", size, None, "0" * 64, "application/octet-stream", OriginObject("weights", '"e"'))
    source = PacedSource()
    running = Transfer("measuring", Chain("measuring", [lambda: source]), Verification.NONE)
    with _fixed(connections):
        began = time.perf_counter()
        running.start([_Memory(file, item_bytes)])
        running.wait()
        return time.perf_counter() - began


@contextmanager
def _fixed(connections: int | None) -> Iterator[None]:
    """Fix the number of connections, and neither add nor take away; None leaves the choice to the engine."""
    names = vars(transfer)
    kept = {name: names[name] for name in ("worker_count", "grown_count")}
    if connections is not None:
        names["worker_count"] = lambda kind, cpus, items, *, buffers: min(connections, max(items, 1))
        names["grown_count"] = lambda kind, count, rate, before: count
    try:
        yield
    finally:
        names.update(kept)


def load_once(url: str, connections: int, item_mib: int) -> None:
    """Load, and print seconds of time and of CPU for a GB."""
    vars(loading)["item_bytes"] = lambda kind, size: item_mib * MiB
    model = hotstart.open(REFERENCE, proxy=url)
    # Threads, modules and the first pages are not what is compared.
    model.read("config.json")
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    with _fixed(connections):
        found = model.load(compression="none", verify="none")
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    gigabytes = found.report.tensor_bytes / 1e9
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    print(json.dumps([seconds / gigabytes, cpu / gigabytes]))


def _in_child(url: str, connections: int, item_mib: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.engine", CHILD, url, str(connections), str(item_mib)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    seconds, cpu = json.loads(done.stdout)
    return seconds, cpu


def run(profile: Profile, results: Results) -> None:
    """Measure every count and size near by, and at the pace of S3."""
    counts = profile.pick(quick=(1, 4), bench=(1, 4), full=(1, 2, 4, 8, 16))
    ranges_mib = profile.pick(quick=(8,), bench=(8, 16), full=(4, 8, 16, 32))
    size = profile.pick(quick=32, bench=128, full=1024) * MiB
    with workplace("engine") as folder, served(tiled(size), folder) as proxy:
        for name, url in (("TCP", proxy.url), ("Unix socket", proxy.unix_url)):
            arms = {
                f"{count} x {item} MiB": partial(_in_child, url, count, item)
                for count in counts
                for item in ranges_mib
            }
            for arm, pairs in interleave(arms, profile.rounds).items():
                seconds, cpu = zip(*pairs, strict=True)
                results.add("engine", name, arm, seconds, "s/GB", page_cache=WARM)
                results.add("engine", name, arm, cpu, "CPU s/GB", page_cache=WARM)
    size = profile.pick(quick=64, bench=512, full=4096) * MiB
    for count in profile.pick(quick=(8, None), bench=(16, None), full=(4, 8, 16, 32, None)):
        for item in ranges_mib:
            arm = f"{count or 'chosen'} x {item} MiB"
            times = [paced_seconds(size, count, item * MiB) for _ in range(profile.rounds)]
            results.add("engine", f"paced as S3, {size // MiB} MiB", arm, times, "s")


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        address, connection_count, mebibytes = sys.argv[2:]
        load_once(address, int(connection_count), int(mebibytes))
    else:
        sys.exit(main("engine", SUMMARY, run))
