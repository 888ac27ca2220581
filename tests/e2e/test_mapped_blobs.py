"""A blob that a client maps stays where it is, also when the store has no other room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import Loads
from tests.support.deadlines import wait_until
from tests.support.processes import Processes

HOLDER = """
import sys, time, hotstart
weights = hotstart.load(sys.argv[1], framework="numpy")
print("loaded", flush=True)
time.sleep(3600)
"""


def test_new_versions_are_passed_through_while_old_ones_are_mapped(
    processes: Processes, loads: Loads, publish: Callable[..., Path], tmp_path: Path
) -> None:
    """While a client maps what the budget holds, a new version is passed through, counted; then kept."""
    origin = f"file://{tmp_path}/origin"
    first = publish("org/bert@1", origin, environment={}, seed=1)
    second = publish("org/bert@2", origin, environment={}, seed=2)
    size = (first / "model.safetensors").stat().st_size
    budget = size * 3 // 2
    proxy = processes.serve(origin, tmp_path / "store", "--budget", str(budget))
    client = {"HOTSTART_PROXY": proxy.unix_url, "HOTSTART_SHARED_DIR": str(proxy.store)}
    loads.check(loads.run("org/bert@1", client), first, "1")
    wait_until("the first version", lambda: proxy.metric("hotstart_store_used_bytes") >= size)
    wait_until("its blob", lambda: not list((proxy.store / "fills").iterdir()))

    holder = processes.python(HOLDER, "org/bert@1", environment=client)
    holder.wait_for_output("loaded")
    maps = Path(f"/proc/{holder.pid}/maps").read_text()
    assert str(proxy.store / "blobs") in maps
    loads.check(loads.run("org/bert@2", {"HOTSTART_PROXY": proxy.url}), second, "2")
    assert proxy.metric("hotstart_answered_bytes_total", model="org/bert", source="pass-through") >= size
    assert proxy.metric("hotstart_store_used_bytes") <= budget
    assert b"the store is full" in proxy.get("/healthz/ready")[1]
    loads.check(loads.run("org/bert@1", client), first, "1")

    holder.kill()
    loads.check(loads.run("org/bert@2", {"HOTSTART_PROXY": proxy.url}), second, "2")
    wait_until("the second version", lambda: proxy.metric("hotstart_evictions_total", reason="budget") == 1)
    wait_until("readiness without complaint", lambda: b"full" not in proxy.get("/healthz/ready")[1])
    assert proxy.metric("hotstart_store_used_bytes") <= budget
