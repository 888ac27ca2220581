"""A model, published and served by the installed commands."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .folders import sockets_folder
from .processes import BenchmarkFailed, clean_environment, command_path, free_port, running
from .weights import WEIGHTS_FILE, model_folder

__all__ = ["REFERENCE", "Proxy", "hotstart", "publish", "serve", "served", "warm"]

REFERENCE = "org/bench@1"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running ``hotstart serve``.

    Attributes:
        url: its TCP listener, as HOTSTART_PROXY takes it.
        unix: path of its Unix socket.
        store: folder of its store, as HOTSTART_SHARED_DIR takes it; for ``disk:`` stores.
        pid: of the process, or of the parent of several workers.
    """

    address: str
    port: int
    unix: Path
    store: Path
    pid: int

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def unix_url(self) -> str:
        """The Unix socket, as HOTSTART_PROXY takes it."""
        return f"unix:{self.unix}"

    def path(self, reference: str = REFERENCE, file: str = WEIGHTS_FILE) -> str:
        """Return the path of a file's URL."""
        return f"/v1/models/{reference}/{file}"


def hotstart(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run ``hotstart ARGUMENTS`` to its end and return what it printed.

    Raises:
        BenchmarkFailed: its exit status is not 0.
    """
    command = [command_path("hotstart"), *arguments]
    env = clean_environment(environment)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def publish(
    folder: Path,
    reference: str,
    origin: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Publish a folder; an origin that is a directory (``file:///…``) is created."""
    if origin.startswith("file://"):
        Path(origin.removeprefix("file://")).mkdir(parents=True, exist_ok=True)
    hotstart("publish", str(folder), reference, "--origin", origin, *arguments, environment=environment)


@contextmanager
def serve(
    origin: str,
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    address: str = "127.0.0.1",
    prefix: tuple[str, ...] = (),
    store: str = "",
) -> Iterator[Proxy]:
    """Run ``hotstart serve`` on TCP and a Unix socket.

    Args:
        origin: as ``--origin`` takes it.
        folder: for its store and log; created.
        arguments: more options.
        environment: for example the AWS variables of an S3 server.
        address: the TCP address to listen at.
        prefix: a command to run it under, which becomes it (``ip netns exec NAME``).
        store: as ``--store`` takes it; by default a disk store in folder.

    Raises:
        BenchmarkFailed: it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with sockets_folder() as sockets:
        port, unix, log = free_port(), sockets / "hotstart.sock", folder / "serve.log"
        disk = folder / "store"
        command = [*prefix, command_path("hotstart"), "serve", "--origin", origin]
        command += ["--store", store or f"disk:{disk}"]
        command += ["--listen", f"{address}:{port}", "--listen", f"unix:{unix}", "--log-level", "error"]
        # At the level error the only line is the one that says that it serves.
        ready = lambda: log.stat().st_size > 0  # noqa: E731
        with running([*command, *arguments], log, ready, environment) as process:
            yield Proxy(address, port, unix, disk, process.pid)


def warm(proxy: Proxy, reference: str = REFERENCE) -> None:
    """Have the proxy fetch a version, and wait until it is in its store."""
    hotstart("admin", "warm", reference, "--admin", str(proxy.store))


@contextmanager
def served(weights: Path, folder: Path, *arguments: str, reference: str = REFERENCE) -> Iterator[Proxy]:
    """Publish weights to a directory and serve them, with the store warm.

    Args:
        weights: a Safetensors file; the version holds it as ``model.safetensors``.
        folder: for origin, store and logs.
        arguments: more options of ``hotstart serve``.
        reference: what to publish it as.
    """
    name = reference.replace("/", "-")
    origin = f"file://{folder}/origin"
    publish(model_folder(folder / name, weights), reference, origin)
    with serve(origin, folder / "proxy", *arguments) as proxy:
        warm(proxy, reference)
        yield proxy
