"""The ring: one allocation, cut into slots that are received into, copied from, and used again."""

from __future__ import annotations

from hotstart.buffers import HostBuffer

from .base import Event

__all__ = ["Ring", "Slot"]


class Slot:
    """One slot of a ring.

    Attributes:
        start: its first byte in the ring.
        memory: its bytes.
    """

    __slots__ = ("memory", "start")

    def __init__(self, start: int, memory: memoryview) -> None:
        self.start = start
        self.memory = memory


class Ring:
    """Slots that are free, or copied from until an event; the others are whoever's that took them.

    For one thread at a time. Events may be done in any order.

    Attributes:
        memory: all of it.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        """Allocate; pages are touched by those who receive into them."""
        self.memory = HostBuffer(slots * slot_bytes).view
        starts = range(0, slots * slot_bytes, slot_bytes)
        self._free = [Slot(start, self.memory[start : start + slot_bytes]) for start in reversed(starts)]
        self._copying: list[tuple[Event, Slot]] = []

    def take(self) -> Slot | None:
        """Return a free slot, or None where there is none."""
        if not self._free:
            self._sweep()
        return self._free.pop() if self._free else None

    def give_back(self, slot: Slot) -> None:
        """Note that a slot is free."""
        self._free.append(slot)

    def give_back_after(self, slot: Slot, event: Event) -> None:
        """Note that a slot is free once an event is done."""
        self._copying.append((event, slot))

    def wait(self) -> bool:
        """Wait until a slot that is copied from is free; tell whether there was one to wait for."""
        if not self._copying:
            return False
        event, slot = self._copying.pop(0)
        event.wait()
        self._free.append(slot)
        self._sweep()
        return True

    def _sweep(self) -> None:
        copying = []
        for event, slot in self._copying:
            if event.is_done():
                self._free.append(slot)
            else:
                copying.append((event, slot))
        self._copying = copying
