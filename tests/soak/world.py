"""The servers of a soak: S3, Valkey, and four proxies that stand on them in different ways."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import Process, Processes, command_path, free_port, get
from tests.support.s3 import S3Server
from tests.support.valkey import ValkeyServer

__all__ = ["BUCKET", "DISK_BUDGET_BYTES", "REDIS_BUDGET_BYTES", "Member", "World"]

BUCKET = "soak"
DISK_BUDGET_BYTES = 96 * 1024 * 1024
REDIS_BUDGET_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class Member:
    """One proxy, to be killed and started again.

    Attributes:
        name: what the figures call it.
        arguments: of ``hotstart serve``, its address left out.
        store: its folder, where it has a disk.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    store: Path | None
    admin: Path
    port: int = field(default_factory=free_port)
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, processes: Processes) -> None:
        """Start it; nobody waits until it serves."""
        listen = ("--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"unix:{self.admin}")
        command = (command_path(), "serve", *listen, *self.arguments)
        self.process = processes.start(*command, environment=self.environment, name=f"serve-{self.name}")

    def kill(self) -> None:
        """End all its processes where they stand."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def kill_a_worker(self) -> bool:
        """End one worker, whichever the kernel names first; False if it has none."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if children:
            os.kill(int(children[0]), signal.SIGKILL)
        return bool(children)

    def metrics(self) -> dict[str, float]:
        """Return every sample of a scrape by its name and labels; empty where nobody answers."""
        try:
            status, text = get("/metrics", port=self.port)
        except OSError:
            return {}
        lines = text.decode().splitlines() if status == 200 else []
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}


class World:
    """All servers; a context manager that ends them."""

    def __init__(self, root: Path) -> None:
        self.origin = f"s3://{BUCKET}/models"
        self.s3 = S3Server(root / "s3")
        self.valkey = ValkeyServer()
        self.processes = Processes(root / "output")
        self._root = root
        self.members: list[Member] = []

    def __enter__(self) -> World:
        self.s3.__enter__()
        self.s3.create_bucket(BUCKET)
        self.valkey.__enter__()
        self.processes.__enter__()
        self.environment = self.s3.environment()
        redis = ("--store", self.valkey.url, "--budget", str(REDIS_BUDGET_BYTES))
        origin = ("--origin", self.origin)
        node = self._root / "node"
        self._add("workers", node, *origin, *self._disk(node), *redis, "--workers", "2")
        self._add("neighbour", node, *origin, *self._disk(node), *redis)
        self._add("redis", None, *origin, *redis)
        chained = self._root / "chained"
        self._add("chained", chained, "--origin", self.members[0].url, *self._disk(chained))
        for member in self.members:
            member.start(self.processes)
        return self

    @staticmethod
    def _disk(folder: Path) -> tuple[str, ...]:
        return ("--store", f"disk:{folder}", "--budget", str(DISK_BUDGET_BYTES))

    def _add(self, name: str, store: Path | None, *arguments: str) -> None:
        often = (
            "--alias-ttl",
            "1s",
            "--scrub-interval",
            "20s",
            "--keep-versions",
            "3",
            "--log-level",
            "warning",
        )
        # A Unix socket's path is short.
        admin = Path(f"/tmp/hotstart-soak-{os.getpid()}-{name}.sock")
        self.members.append(Member(name, (*arguments, *often), self.environment, store, admin))

    def __exit__(self, *exc_info: object) -> None:
        for member in self.members:
            if member.process is not None and member.process.running:
                member.kill()
        with (self._root / "output.txt").open("w") as output, contextlib.redirect_stdout(output):
            self.processes.__exit__(None, None, None)
        self.valkey.__exit__(None, None, None)
        self.s3.__exit__(None, None, None)
        for member in self.members:
            member.admin.unlink(missing_ok=True)
