"""How an origin answers, and how much to ask of it at once: as much as makes up for its time to first byte.

A request of n bytes takes first_byte + n / rate seconds. So that the first byte is a given share of it, n
must grow with both. S3 gives 85 to 90 MB/s a connection and its first byte after 50 to 200 ms: there requests
of tens of MiB pay, and a directory or a proxy next door is asked for little at a time, which leaves its
connections free for whoever jumps ahead.
"""

from __future__ import annotations

__all__ = ["Pace"]

# Waiting for the first byte takes a fifth of a request at most, where the longest request allows it.
_REQUEST_TO_WAIT = 4.0
# The weight of the newest observation: a handful tell, and one that was slow by chance does not.
_WEIGHT = 0.25


class Pace:
    """Observations of one origin, and the length of requests that follows from them."""

    def __init__(self) -> None:
        """Begin with none."""
        self._first_byte_seconds: float | None = None
        self._bytes_per_second: float | None = None

    def observed(self, first_byte_seconds: float, body_seconds: float, body_bytes: int) -> None:
        """Note how one request went.

        Args:
            first_byte_seconds: until its first bytes came.
            body_seconds: from then until its last.
            body_bytes: that came after the first.
        """
        self._first_byte_seconds = _mixed(self._first_byte_seconds, first_byte_seconds)
        if body_bytes > 0 and body_seconds > 0:
            self._bytes_per_second = _mixed(self._bytes_per_second, body_bytes / body_seconds)

    def run(self, shortest: int, longest: int, piece_bytes: int) -> int:
        """Return how many pieces to ask for with one request: shortest to longest."""
        if self._first_byte_seconds is None or self._bytes_per_second is None:
            return shortest
        wanted = _REQUEST_TO_WAIT * self._first_byte_seconds * self._bytes_per_second
        return max(shortest, min(longest, round(wanted / piece_bytes)))


def _mixed(before: float | None, now: float) -> float:
    return now if before is None else before + _WEIGHT * (now - before)
