"""The benchmarks' links, which only root can make."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.links import Link, LinkUnavailable, link
from tests.support.deadlines import wait_until
from tests.support.processes import Processes

pytestmark = pytest.mark.system

SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 8000)) as server:
    print("listening", flush=True)
    while True:
        with server.accept()[0] as connection:
            connection.sendall(bytes(int(sys.argv[2])))
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], 8000)) as connection:
    print(sum(len(data) for data in iter(lambda: connection.recv(65536), b"")), flush=True)
"""
MAKER = """
import time
from benchmarks.links import link
with link(1_000_000_000) as made:
    print(made.server.namespace, made.client.namespace, flush=True)
    time.sleep(3600)
"""


@contextmanager
def serving(made: Link, size: int) -> Iterator[None]:
    """Have a server of so many bytes at the link's one side."""
    command = made.server.command(sys.executable, "-c", SERVER, made.server.address, str(size))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            yield
        finally:
            server.kill()


def fetch(made: Link) -> int:
    """Return how many bytes come over the link."""
    command = made.client.command(sys.executable, "-c", CLIENT, made.server.address)
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


def test_a_link_carries_and_is_no_faster_than_asked() -> None:
    """Bytes arrive, and not sooner than the rate allows."""
    size, rate = 8_000_000, 100_000_000
    with link(rate) as made, serving(made, size):
        started = time.perf_counter()
        assert fetch(made) == size
        # A lower bound is no matter of how busy the machine is: the burst alone is free.
        assert time.perf_counter() - started > size * 8 / rate * 0.8


def test_the_two_sides_see_nothing_else() -> None:
    """Within a link there are two devices, and no server of this machine."""
    with link(1_000_000_000) as made, socket.create_server(("127.0.0.1", 0)) as outside:
        devices = subprocess.run(made.client.command("ip", "-o", "link"), capture_output=True, check=True)
        assert len(devices.stdout.splitlines()) == 2
        connect = f"import socket; socket.create_connection(('127.0.0.1', {outside.getsockname()[1]}))"
        command = made.client.command(sys.executable, "-c", connect)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "ConnectionRefusedError" in done.stderr


def test_nothing_is_left_of_a_link(processes: Processes) -> None:
    """Both namespaces end with the block, and also with a maker that is killed."""
    with link(1_000_000_000) as made:
        sides = [Path(made.server.namespace), Path(made.client.namespace)]
        assert all(os.path.lexists(side) for side in sides)
    assert not any(os.path.lexists(side) for side in sides)

    root = str(Path(__file__).resolve().parents[2])
    maker = processes.start(sys.executable, "-c", MAKER, environment={"PYTHONPATH": root})
    wait_until("the link", lambda: maker.stdout.count("\n"))
    sides = [Path(name) for name in maker.stdout.split()]
    assert len(sides) == 2
    maker.kill()
    wait_until("the end of both", lambda: not any(os.path.lexists(side) for side in sides))


def test_two_links_at_once_do_not_meet() -> None:
    """The same addresses serve every link, each in a world of its own."""
    with link(1_000_000_000) as first, link(1_000_000_000) as second:
        with serving(first, 1000), serving(second, 2000):
            assert (fetch(first), fetch(second)) == (1000, 2000)


def test_what_the_machine_refuses_is_said() -> None:
    """A rate that tc does not take ends in an error with its words."""
    with pytest.raises(LinkUnavailable, match="tbf"):
        with link(-1):
            pass
