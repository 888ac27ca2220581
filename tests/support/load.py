"""What a running proxy has in hand, by its gauges."""

from __future__ import annotations

from tests.support.deadlines import wait_until
from tests.support.processes import Proxy

__all__ = ["GAUGES", "check_nothing_is_taken"]

# All of these are 0 when nobody asks for anything.
GAUGES = (
    "hotstart_fills_in_progress",
    "hotstart_open_answers",
    "hotstart_fill_slots_held",
    "hotstart_fill_slots_waiting",
    "hotstart_passes",
    "hotstart_passes_waiting",
    "hotstart_reserved_bytes",
)


def check_nothing_is_taken(proxy: Proxy) -> None:
    """Wait until all gauges are at 0, which they are once the last reader's end has been noticed."""
    wait_until("all gauges at 0", lambda: not any(proxy.metric(name) for name in GAUGES))
