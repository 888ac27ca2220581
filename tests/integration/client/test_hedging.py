"""A connection that hangs: its request is finished on another; a source that is slow is left in peace."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import hotstart
from hotstart.engine import patience
from tests.integration.client.conftest import Published, warm
from tests.support.deadlines import TIME_SCALE
from tests.support.models import assert_same_tensors
from tests.support.processes import Processes, Proxy
from tests.support.relay import Relay

MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize("after", [0, 64 * 1024, 3 * MEBIBYTE])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_stalled_connection_is_replaced(
    proxy: Proxy, published: Published, compression: str, after: int
) -> None:
    """A connection that stalls before or within a body holds nothing up: another one brings the rest."""
    warm(proxy, hotstart.open("org/bert@1", proxy=proxy.url))
    with Relay(proxy.port) as relay:
        model = hotstart.open("org/bert@1", proxy=relay.url)
        relay.stall_one(after)
        found = model.load(compression=compression)
        relay.wait_until_stalled()
    assert_same_tensors(found, published.weights("org/bert@1")[0])
    assert [reason for reason in found.report.retries if "another connection took over" in reason]
    assert not found.report.failovers


def test_nothing_is_received_twice_for_a_stall(proxy: Proxy, published: Published) -> None:
    """The bytes before the stall are kept: at most what lay in the buffers of one connection comes again."""
    warm(proxy, hotstart.open("org/bert@1", proxy=proxy.url))
    with Relay(proxy.port) as relay:
        model = hotstart.open("org/bert@1", proxy=relay.url)
        relay.stall_one(3 * MEBIBYTE)
        found = model.load(compression="none")
        size = sum(file.size for file in model.selection().files)
    (received,) = found.report.received_bytes.values()
    assert received == size


def test_a_slow_fill_is_not_asked_again_and_again(
    processes: Processes, proxy: Proxy, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that waits for its own origin is asked for each range once, and twice more at most."""
    monkeypatch.setattr(patience, "FLOOR_SECONDS", 0.1 * TIME_SCALE)
    with Relay(proxy.port) as far:
        near = processes.serve(far.url, tmp_path / "near")
        with Relay(near.port) as relay:
            quick = hotstart.open("org/bert@1", proxy=relay.url)
            before = relay.gets
            far.answers.hold_after(2 * MEBIBYTE)
            loading = hotstart.prefetch("org/bert@1", proxy=relay.url, compression="none")
            far.answers.wait_until_held()
            # Ten times the floor, in which a client without manners would ask ten times.
            time.sleep(1.0 * TIME_SCALE)
            far.answers.release()
            found = loading.result()
    assert_same_tensors(found, published.weights("org/bert@1")[0])
    ranges = -(-quick.selection().files[0].size // (8 * MEBIBYTE))
    assert relay.gets - before <= 1 + ranges + 2
