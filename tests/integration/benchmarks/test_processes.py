"""What processes cost, seen from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.harness.processes import (
    BenchmarkFailed,
    CpuMeter,
    PeakMemory,
    cpu_seconds,
    memory_bytes,
    running,
)
from tests.support.deadlines import wait_until

MIB = 1024 * 1024

# Obeys lines on standard input, and answers each with a line.
PUPPET = """
import subprocess, sys, time
held = []
for line in sys.stdin:
    word, _, number = line.strip().partition(" ")
    if word == "burn":
        end = time.process_time() + float(number)
        while time.process_time() < end:
            pass
    elif word == "hold":
        held.append(b"x" * int(number))
    elif word == "drop":
        held.clear()
    elif word == "child":
        code = "import time\\nwhile time.process_time() < " + number + ": pass"
        subprocess.run([sys.executable, "-c", code], check=True)
    print("done", flush=True)
"""


class Puppet:
    """A process that does what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def tell(self, line: str) -> None:
        """Have it do something, and wait until it is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@contextmanager
def puppet() -> Iterator[Puppet]:
    """Start one, and end it."""
    command = [sys.executable, "-c", PUPPET]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Puppet(process)


def test_cpu_time_of_another_process() -> None:
    """A meter counts what a process burned, and what a child of its burned that has ended."""
    with puppet() as other:
        other.tell("burn 0")
        with CpuMeter(other.pid) as meter:
            other.tell("burn 0.1")
        assert 0.1 <= meter.seconds <= 1
        with CpuMeter(other.pid) as meter:
            other.tell("child 0.1")
        assert 0.09 <= meter.seconds <= 5


def test_peak_memory_of_another_process() -> None:
    """The peak is what was held meanwhile, not what is held at the end."""
    with puppet() as other:
        other.tell("burn 0")
        with PeakMemory(other.pid) as memory:
            other.tell(f"hold {64 * MIB}")
            wait_until("the peak", lambda: memory.peak_bytes >= memory.first_bytes + 60 * MIB)
            other.tell("drop")
            assert memory_bytes(other.pid) < memory.first_bytes + 60 * MIB
        assert memory.first_bytes + 60 * MIB <= memory.peak_bytes <= memory.first_bytes + 80 * MIB


def test_a_process_that_is_gone_costs_nothing() -> None:
    """What has ended holds no memory and counts no CPU time; asking for it is no error."""
    with puppet() as other:
        pass
    assert memory_bytes(other.pid) == 0
    assert cpu_seconds(other.pid) == 0


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    """A server that ends instead of serving fails the benchmark with what it printed."""
    command = [sys.executable, "-c", "raise SystemExit('no such disk')"]
    with pytest.raises(BenchmarkFailed, match="no such disk"):
        with running(command, tmp_path / "log", lambda: False):
            pass


def test_a_server_ends_with_its_block(tmp_path: Path) -> None:
    """A server ends with its block, also where the block fails; our variables do not reach it."""
    log = tmp_path / "log"
    code = "import os, time; print([n for n in os.environ if 'HOTSTART_' in n], flush=True); time.sleep(99)"
    with pytest.raises(ZeroDivisionError):
        with running(
            [sys.executable, "-c", code], log, lambda: log.stat().st_size > 0, {"HOTSTART_X": "1"}
        ) as process:
            raise ZeroDivisionError
    assert process.poll() is not None
    assert log.read_text() == "['HOTSTART_X']\n"
