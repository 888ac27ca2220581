"""How long a request may bring nothing before its rest is asked for on a second connection; pure.

A connection can hang while its source is well: a packet lost at a bad moment, a path that went away, one
storage node of many. It can also be that the source has nothing yet, because it is fetching the bytes itself;
to ask again then brings nothing and burdens it. So the limit follows what the other waits of the same
transfer took, hedges are few, and ones that did not help end the hedging.
"""

from __future__ import annotations

__all__ = ["Patience"]

# Below this, what looks stuck is a busy machine: threads of a container that has used up its share of CPU
# stand still for hundreds of milliseconds.
FLOOR_SECONDS = 1.0
# S3's slowest first byte of a hundred takes about four times its median.
_TIMES_THE_LONGEST = 4.0
# Where nobody else receives anything either, the source is slow rather than one connection stuck.
_TIMES_WHEN_ALONE = 4.0
_MOST_HEDGES = 8
_MOST_USELESS_HEDGES = 2


class Patience:
    """What one transfer has seen of waits, and of hedges. Guarded by whoever owns it, save ``arrived``."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._last_arrival = 0.0
        self._hedges = 0
        self._useless = 0

    def arrived(self, waited_since: float, now: float) -> None:
        """Note a wait that ended with bytes; harmless from several threads at once.

        Args:
            waited_since: when it began, in seconds of any one clock.
            now: by the same clock.
        """
        self._longest = max(self._longest, now - waited_since)
        self._last_arrival = now

    @property
    def limit_seconds(self) -> float | None:
        """The longest wait that is not hedged while others receive; None where none is hedged any more."""
        if self._hedges >= _MOST_HEDGES or self._useless >= _MOST_USELESS_HEDGES:
            return None
        return max(FLOOR_SECONDS, _TIMES_THE_LONGEST * self._longest) * 2.0**self._useless

    def is_due(self, waited_since: float, now: float) -> bool:
        """Tell whether a wait is too long by now."""
        limit = self.limit_seconds
        if limit is None:
            return False
        if self._last_arrival <= waited_since:
            limit *= _TIMES_WHEN_ALONE
        return now - waited_since >= limit

    def hedged(self) -> None:
        """Note that a request was asked for again."""
        self._hedges += 1

    def was_useless(self) -> None:
        """Note that the first connection went on after all, or that the second brought nothing."""
        self._useless += 1
