"""A set of byte offsets, kept as few disjoint ranges: what has arrived of a file, and what is good."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from hotstart.wire.ranges import ByteRange

__all__ = ["SpanSet"]


class SpanSet:
    """Offsets that were added, merged where they touch. Not safe for concurrent use."""

    def __init__(self) -> None:
        # Parallel lists, since bisect is the whole of it: range i is starts[i] to stops[i].
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, added: ByteRange) -> ByteRange:
        """Add a range (overlaps are allowed) and return the merged range that it is now part of."""
        if added.start == added.stop:
            return added
        first = bisect_left(self._stops, added.start)
        after = bisect_right(self._starts, added.stop)
        start, stop = added.start, added.stop
        if first < after:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[after - 1])
        self._starts[first:after] = [start]
        self._stops[first:after] = [stop]
        return ByteRange(start, stop)

    def covers(self, wanted: ByteRange) -> bool:
        """Tell whether every offset of wanted was added; an empty range is always covered."""
        if wanted.start == wanted.stop:
            return True
        index = bisect_right(self._starts, wanted.start) - 1
        return index >= 0 and self._stops[index] >= wanted.stop

    def ranges(self) -> list[ByteRange]:
        """Return the disjoint ranges, in order."""
        return [ByteRange(start, stop) for start, stop in zip(self._starts, self._stops, strict=True)]

    def __len__(self) -> int:
        """Return how many offsets are in the set."""
        return sum(self._stops) - sum(self._starts)
