"""Servers and what they cost: started and ended by their own pid, measured by /proc."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

__all__ = [
    "BenchmarkFailed",
    "CpuMeter",
    "PeakMemory",
    "clean_environment",
    "command_path",
    "cpu_seconds",
    "free_port",
    "memory_bytes",
    "running",
    "wait_until",
]

READY_SECONDS = 60.0
STOP_SECONDS = 15.0
_POLL_SECONDS = 0.01
_SAMPLE_SECONDS = 0.01
# Below the kernel's range for outgoing connections, so that a port stays free until it is bound.
_PORTS = range(12_000, 20_000)
_NOT_INHERITED = ("HOTSTART_", "AWS_")
_TICKS = os.sysconf("SC_CLK_TCK")


class BenchmarkFailed(Exception):
    """A benchmark could not be measured; the message says why."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without our own and AWS's variables, plus extra."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    return {**kept, **(extra or {})}


def command_path(name: str) -> str:
    """Return the path of a command that is installed beside this interpreter."""
    return str(Path(sys.executable).with_name(name))


def wait_until(what: str, look: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
    """Look again and again until there is something to see.

    Args:
        what: completes the sentence "waited in vain for ...".
        look: true once it is there.
        seconds: how long to look.

    Raises:
        BenchmarkFailed: nothing came.
    """
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"waited in vain for {what}, {seconds:.0f} s long")
        time.sleep(_POLL_SECONDS)


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, wait until it is ready, and end it at the end: SIGTERM, then SIGKILL.

    Args:
        command: its first word is a path.
        log: what it prints goes there, and is in the message of a failure.
        ready: looked at until it is true.
        environment: added to this process's, from which our own and AWS's variables are taken out.

    Raises:
        BenchmarkFailed: it ended, or was not ready in time.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=clean_environment(environment),
            # Ctrl-C is for the benchmark, which then ends this.
            start_new_session=True,
        )
    name = Path(command[0]).name

    def look() -> bool:
        if process.poll() is not None:
            raise BenchmarkFailed(f"{name} ended:\n{log.read_text(errors='replace')[-4000:]}")
        return ready()

    try:
        wait_until(f"{name} to be ready", look)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# What a process costs


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    # Of children that have ended and were waited for.
    children_ticks: int


def _stats() -> dict[int, _Stat]:
    """Return /proc/PID/stat of all processes."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:
            # It ended while we looked.
            continue
        # The name in parentheses may hold anything.
        fields = text.rpartition(")")[2].split()
        found[int(entry.name)] = _Stat(int(fields[1]), int(fields[13]) + int(fields[14]))
    return found


def _tree(pid: int, stats: Mapping[int, _Stat]) -> list[int]:
    pids = [pid] if pid in stats else []
    for parent in pids:
        pids.extend(child for child, stat in stats.items() if stat.parent == parent)
    return pids


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds, user and system, of a process and all its descendants until now."""
    stats = _stats()
    return sum(_own_seconds(member) + stats[member].children_ticks / _TICKS for member in _tree(pid, stats))


def _own_seconds(pid: int) -> float:
    # The clock of clock_getcpuclockid(3), made as the C library makes it: to the nanosecond, where
    # /proc/PID/stat counts in hundredths of a second.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        # It ended while we looked.
        return 0.0


def memory_bytes(pid: int) -> int:
    """Return RssAnon + RssShmem of a process and all its descendants; mapped files are not in it."""
    return sum(_memory(member) for member in _tree(pid, _stats()))


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    wanted = ("RssAnon:", "RssShmem:")
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))


class CpuMeter:
    """CPU seconds of a process and its descendants between the beginning and the end of a ``with`` block.

    Attributes:
        seconds: set at the end.
    """

    def __init__(self, pid: int) -> None:
        """Measure a process and its descendants. What ends meanwhile counts where its parent waits for it."""
        self._pid = pid
        self._began = 0.0
        self.seconds = 0.0

    def __enter__(self) -> CpuMeter:
        self._began = cpu_seconds(self._pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.seconds = cpu_seconds(self._pid) - self._began


class PeakMemory:
    """The greatest RssAnon + RssShmem that was seen of a process during a ``with`` block.

    The kernel keeps no peak of these two, so a thread looks a hundred times a second. What a process held for
    less may be missed.

    Attributes:
        first_bytes: at the beginning.
        peak_bytes: the greatest, also while the block still runs.
    """

    def __init__(self, pid: int) -> None:
        """Watch a process and the descendants that it has at the beginning."""
        self._pids = _tree(pid, _stats())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.first_bytes = self.peak_bytes = self._now()

    def _now(self) -> int:
        return sum(_memory(pid) for pid in self._pids)

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self._now())

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self._now())
