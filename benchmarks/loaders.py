"""Who loads, in the benchmark of loading: processes that import one library, and measure on request."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from benchmarks.harness import peers
from benchmarks.harness.folders import REPOSITORY
from benchmarks.harness.processes import BenchmarkFailed, clean_environment

__all__ = ["ARMS", "Arm", "Group", "LoadFailed", "Loaded", "Loaders", "arms_of"]

Group: TypeAlias = Literal["ours", "peer", "limit"]

_END_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to load.

    Attributes:
        name: as tables show it.
        module: of ``benchmarks.peers``.
        group: ours; a peer, run by the peers' interpreter; or a limit.
        facts: what its requests say besides where things are.
        local: whether it needs the server's files, so that it is nothing over a link.
        remote: whether it is measured over links.
        packages: that must be among the peers.
    """

    name: str
    module: str
    group: Group
    facts: Mapping[str, Any] = field(default_factory=dict)
    local: bool = True
    remote: bool = True
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """One measured load.

    Attributes:
        returned_seconds: until all tensors were there.
        read_seconds: until every byte of them was read once, too.
        cpu_seconds: of the process until all tensors were there, user and system.
        peak_bytes: how far its own memory rose; 0 if that was not watched.
        checksum: of all bytes of all tensors.
        picked: the representations that hotstart chose.
    """

    returned_seconds: float
    read_seconds: float
    cpu_seconds: float
    peak_bytes: int
    checksum: int
    picked: tuple[str, ...] = ()


class LoadFailed(Exception):
    """A loader could not be started, or could not load; the message says why."""


def _ours(name: str, way: str, compression: str, *, local: bool, remote: bool) -> Arm:
    facts = {"way": way, "compression": compression}
    return Arm(name, "own", "ours", facts, local=local, remote=remote)


ARMS: Sequence[Arm] = (
    _ours("hotstart, shared volume", "shared", "auto", local=True, remote=False),
    _ours("hotstart, Unix socket", "unix", "auto", local=True, remote=False),
    _ours("hotstart, TCP", "tcp", "auto", local=True, remote=True),
    _ours("hotstart, TCP, plain", "tcp", "none", local=False, remote=True),
    _ours("hotstart, TCP, zstd", "tcp", "zstd", local=False, remote=True),
    _ours("hotstart, TCP, planes", "tcp", "planes", local=False, remote=True),
    Arm("nginx + safetensors, memory", "nginx_memory", "peer", packages=("safetensors", "torch")),
    Arm("nginx + safetensors, file", "nginx_file", "peer", packages=("safetensors", "torch")),
    Arm("boto3 + safetensors", "boto3_safetensors", "peer", packages=("boto3", "safetensors", "torch")),
    Arm("Run:ai streamer", "runai", "peer", packages=("runai-model-streamer", "torch")),
    Arm("tensorizer", "tensorizer_http", "peer", packages=("tensorizer", "torch")),
    Arm("huggingface_hub", "hub", "peer", packages=("huggingface_hub", "safetensors", "torch")),
    Arm("limit: mmap of a local file", "limits", "limit", {"limit": "mmap"}, remote=False),
    Arm("limit: line", "limits", "limit", {"limit": "line"}),
    Arm("limit: memcpy", "limits", "limit", {"limit": "memcpy"}, remote=False),
)


def arms_of(*, over_link: bool) -> list[Arm]:
    """Return the arms that mean something on this host, or over a link."""
    return [arm for arm in ARMS if (arm.remote if over_link else arm.local)]


class _Loader:
    """A started script: it has imported its library, and waits."""

    def __init__(self, python: Path | str, module: str, log: Path) -> None:
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", f"benchmarks.peers.{module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
                env=clean_environment(),
                start_new_session=True,
            )
        self._module = module
        self._log = log
        self._receive()

    def load(self, request: Mapping[str, Any]) -> Loaded:
        """Have it load once.

        Raises:
            LoadFailed: the library raised, or the process ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._receive()
        peak = self._receive()
        if "error" in answer:
            raise LoadFailed(answer["error"])
        picked = tuple(answer.pop("picked", ()))
        return Loaded(**answer, peak_bytes=peak["peak_bytes"], picked=picked)

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise LoadFailed(said[-1] if said else f"{self._module} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Loaders:
    """All loaders of one benchmark, started when first used; a context manager that ends them."""

    def __init__(self, folder: Path) -> None:
        """Keep what they print in folder."""
        self._folder = folder
        self._started: dict[str, _Loader] = {}

    def __enter__(self) -> Loaders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for loader in self._started.values():
            loader.close()

    def load(self, arm: Arm, request: Mapping[str, Any]) -> Loaded:
        """Load once by an arm.

        Raises:
            LoadFailed: it cannot.
        """
        loader = self._started.get(arm.module)
        if loader is None:
            python = self._python(arm)
            loader = _Loader(python, arm.module, self._folder / f"{arm.module}.log")
            self._started[arm.module] = loader
        return loader.load({**request, **arm.facts})

    def _python(self, arm: Arm) -> Path | str:
        if arm.group != "peer":
            return sys.executable
        for package in arm.packages:
            if not (peer := peers.peer(package)):
                raise LoadFailed(peer.reason)
        python = peers.python()
        assert python is not None
        return python


def convert_for_tensorizer(source: Path, target: Path) -> None:
    """Write the tensors of a Safetensors file in tensorizer's format, by the peers' interpreter.

    Raises:
        LoadFailed: tensorizer is not there.
        BenchmarkFailed: it could not.
    """
    peer = peers.peer("tensorizer")
    if not peer:
        raise LoadFailed(peer.reason)
    command = [str(peers.python()), "-m", "benchmarks.peers.tensorizer_http", str(source), str(target)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"tensorizer wrote no file:\n{done.stderr[-2000:]}")
