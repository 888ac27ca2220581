"""Faults of the disk under a real proxy, made by strace: every load is right, and so is what is left."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Loads
from tests.support.deadlines import wait_until
from tests.support.processes import Processes

pytestmark = pytest.mark.system


@pytest.mark.parametrize(
    ("calls", "fault"),
    [
        ("pwrite64", "error=EIO:when=2+"),
        ("pwrite64", "error=ENOSPC:when=4"),
        ("fallocate", "error=ENOSPC"),
        ("fallocate", "error=EIO:when=1"),
        ("fsync", "error=EIO:when=2+3"),
        ("rename,renameat,renameat2", "error=EIO:when=2+"),
        ("preadv,preadv2", "error=EIO"),
        ("ftruncate", "error=EIO:when=1+2"),
        ("flock", "error=ENOLCK:when=3+4"),
    ],
)
def test_a_load_on_a_failing_disk(
    processes: Processes, loads: Loads, publish: Callable[..., Path], tmp_path: Path, calls: str, fault: str
) -> None:
    """Whatever call fails under the proxy, loads are right, no blob is wrong, and a sound disk mends all."""
    origin = f"file://{tmp_path}/origin"
    folder = publish("org/bert@1", origin, environment={})
    store = tmp_path / "store"
    # The store itself is made while the disk still works.
    processes.serve(origin, store).process.terminate()
    log = tmp_path / "strace.log"
    under = (
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        str(log),
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={calls}:{fault}",
    )
    proxy = processes.serve(origin, store, under=under)
    for _ in range(2):
        loads.check(loads.run("org/bert@1", {"HOTSTART_PROXY": proxy.url}), folder, "1")
    wait_until("the fault", lambda: re.search(r"\(INJECTED\)", log.read_text()))
    assert proxy.get("/healthz/live")[0] == 200
    proxy.process.kill()
    for blob in store.glob("blobs/*/*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name

    again = processes.serve(origin, store)
    loads.check(loads.run("org/bert@1", {"HOTSTART_PROXY": again.url}), folder, "1")
    wait_until("an end of all fills", lambda: not list((store / "fills").iterdir()))
    sizes = sum(path.stat().st_size for path in store.glob("blobs/*/*"))
    assert again.metric("hotstart_store_used_bytes") == sizes
