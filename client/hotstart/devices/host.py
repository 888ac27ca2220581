"""A device in plain memory: what a GPU does, done as late as a GPU may do it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .base import RING_BYTES, SLOT_BYTES, Device, Event

__all__ = ["HostDevice"]


class HostDevice(Device):
    """Queues what is issued, and does it when an event behind it is waited for or polled often enough.

    So a slot that is used again too early, or a tensor that is handed over too early, gives wrong bytes.

    Attributes:
        pinned_bytes: that are pinned now.
        copies: how many were issued.
    """

    def __init__(
        self,
        *,
        polls: Callable[[int], int] = lambda event: 0,
        ring_bytes: int = RING_BYTES,
        slot_bytes: int = SLOT_BYTES,
    ) -> None:
        """Prepare.

        Args:
            polls: given the number of an event, how often it says that it is not done before it is. Where a
                later one says it less often, events are seen to be done out of order.
            ring_bytes: see ``Device``.
            slot_bytes: see ``Device``.
        """
        super().__init__("host", ring_bytes, slot_bytes)
        self._polls = polls
        self._lock = threading.Lock()
        # All below are guarded by the lock.
        self._queue: deque[Callable[[], object]] = deque()
        self._issued = 0
        self._done = 0
        self._events = 0
        self.pinned_bytes = 0
        self.copies = 0

    def open(self) -> None:
        import torch

        self._torch = torch

    def pin(self, memory: memoryview) -> Callable[[], None]:
        size = len(memory)
        self._count_pinned(size)
        return lambda: self._count_pinned(-size)

    def empty(self, size: int) -> Any:
        # Page-aligned where it matters: torch aligns to 64 bytes only, a GPU's allocator to 512.
        room = self._torch.empty(size + 255, dtype=self._torch.uint8)
        start = -room.data_ptr() % 256
        return room[start : start + size]

    def copy(self, destination: Any, source: Any) -> None:
        self.copies += 1
        self._issue(lambda: destination.copy_(source))

    def cast(self, tensor: Any, dtype: str) -> Any:
        result = self._torch.empty(tensor.shape, dtype=getattr(self._torch, dtype))
        self._issue(lambda: result.copy_(tensor))
        return result

    def record(self) -> Event:
        with self._lock:
            self._events += 1
            return _HostEvent(self, self._issued, self._polls(self._events))

    def hand_over(self, tensor: Any, event: Event) -> None:
        event.wait()

    def catch_up(self, position: int) -> None:
        """Do what was issued, up to a position in the stream."""
        with self._lock:
            while self._done < position:
                self._queue.popleft()()
                self._done += 1

    def _issue(self, operation: Callable[[], object]) -> None:
        with self._lock:
            self._queue.append(operation)
            self._issued += 1

    def _count_pinned(self, size: int) -> None:
        with self._lock:
            self.pinned_bytes += size


class _HostEvent:
    def __init__(self, device: HostDevice, position: int, polls: int) -> None:
        self._device = device
        self._position = position
        self._polls = polls

    def is_done(self) -> bool:
        if self._polls > 0:
            self._polls -= 1
            return False
        self.wait()
        return True

    def wait(self) -> None:
        self._polls = 0
        self._device.catch_up(self._position)
