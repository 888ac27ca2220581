"""Faults of the machine under the proxy: they need strace, or root to mount a small filesystem."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Loads
from tests.support.deadlines import wait_until
from tests.support.processes import Processes, Proxy

pytestmark = pytest.mark.system

MEBIBYTE = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a filesystem")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)), check=True)
    try:
        yield folder
    finally:
        # Lazily: a process that is just ending may still have a file open.
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


def strace(log: Path, *options: str) -> tuple[str, ...]:
    """Return how to run a command so that it is traced and stays the process that was started."""
    return ("strace", "-D", "-f", "-qq", "-o", str(log), *options)


def blobs(proxy: Proxy) -> list[Path]:
    """Return the complete blobs in a proxy's store."""
    return [path for path in (proxy.store / "blobs").rglob("*") if path.is_file()]


def test_a_disk_that_is_too_small(
    processes: Processes, loads: Loads, publish: Callable[..., Path], small_disk: Path, tmp_path: Path
) -> None:
    """A version that does not fit on the disk is served all the same, and nothing partial is kept."""
    origin = f"file://{tmp_path}/origin"
    folder = publish("org/bert@1", origin, environment={})
    proxy = processes.serve(origin, small_disk / "store")
    loads.check(loads.run("org/bert@1", {"HOTSTART_PROXY": proxy.url}), folder, "1")
    assert blobs(proxy) == []
    assert proxy.get("/healthz/ready")[0] == 200


def test_a_disk_that_is_full(
    processes: Processes, loads: Loads, publish: Callable[..., Path], tmp_path: Path
) -> None:
    """ENOSPC in the middle of a fill: the load completes, and nothing partial is committed."""
    origin = f"file://{tmp_path}/origin"
    folder = publish("org/bert@1", origin, environment={})
    # The first piece is kept, the second is not.
    fault = ("-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC:when=3+")
    proxy = processes.serve(origin, tmp_path / "store", under=strace(tmp_path / "strace.log", *fault))
    loads.check(loads.run("org/bert@1", {"HOTSTART_PROXY": proxy.url}), folder, "1")
    assert "ENOSPC" in (tmp_path / "strace.log").read_text()
    assert not [path for path in blobs(proxy) if path.stat().st_size > 4 * MEBIBYTE]


def test_a_disk_that_does_not_keep_what_it_was_given(
    processes: Processes, loads: Loads, publish: Callable[..., Path], tmp_path: Path
) -> None:
    """A failing fsync: the load completes, no blob is committed, and the proxy says that it is degraded."""
    origin = f"file://{tmp_path}/origin"
    folder = publish("org/bert@1", origin, environment={})
    fault = ("-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO")
    # The store itself is made while the disk still works.
    store = tmp_path / "store"
    processes.serve(origin, store).process.terminate()
    proxy = processes.serve(origin, store, under=strace(tmp_path / "strace.log", *fault))
    loads.check(loads.run("org/bert@1", {"HOTSTART_PROXY": proxy.url}), folder, "1")
    wait_until("the end of the fill", lambda: "EIO" in (tmp_path / "strace.log").read_text())
    wait_until("degraded", lambda: b"degraded" in proxy.get("/healthz/ready")[1])
    assert blobs(proxy) == []


def test_a_hit_leaves_by_sendfile(
    processes: Processes, loads: Loads, publish: Callable[..., Path], tmp_path: Path
) -> None:
    """Warm bytes go from the page cache to the socket by sendfile, at most 1 MiB a call."""
    origin = f"file://{tmp_path}/origin"
    folder = publish("org/bert@1", origin, environment={})
    log = tmp_path / "strace.log"
    proxy = processes.serve(origin, tmp_path / "store", under=strace(log, "-e", "trace=sendfile"))
    client = {"HOTSTART_PROXY": proxy.url}
    loads.check(loads.run("org/bert@1", client), folder, "1")
    size = (folder / "model.safetensors").stat().st_size
    wait_until("the blob", lambda: [path for path in blobs(proxy) if path.stat().st_size == size])
    log.write_text("")
    loads.check(loads.run("org/bert@1", client), folder, "1")
    calls = re.findall(r"sendfile\(.*?, (\d+)\)\s+= (\d+)", log.read_text())
    assert max(int(asked) for asked, _ in calls) <= MEBIBYTE
    assert sum(int(sent) for _, sent in calls) >= size
