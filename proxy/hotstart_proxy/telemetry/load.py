"""What a proxy has in hand: for its gauges, and for tests that everything is given back."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Load"]


@dataclass(frozen=True, slots=True)
class Load:
    """What a cache has in hand at this moment; all of it is 0 when nobody asks for anything.

    Attributes:
        bodies: answers that are not closed yet.
        fills: blobs that are being filled, or that somebody reads from their fill.
        slots_held: piece buffers in use.
        slots_waiting: requests of fills that wait for one.
        passes: reads of the origin whose bytes are passed on.
        passes_waiting: readers' requests that wait for one.
        reserved_bytes: of memory: piece buffers in use, and what is passed on.
    """

    bodies: int = 0
    fills: int = 0
    slots_held: int = 0
    slots_waiting: int = 0
    passes: int = 0
    passes_waiting: int = 0
    reserved_bytes: int = 0
