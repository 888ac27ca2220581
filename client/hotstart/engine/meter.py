"""How fast bytes arrive; pure: time comes in."""

from __future__ import annotations

__all__ = ["Meter"]

_SAMPLE_SECONDS = 1.0


class Meter:
    """Measures over all connections, without the first half of the sample.

    In that half, connections come up, and the buckets of traffic shapers are full. Harmless from several
    threads at once.
    """

    def __init__(self, sample_bytes: int, least_seconds: float = 0.0) -> None:
        """Begin to measure.

        Args:
            sample_bytes: enough to say something; of a slow link, what comes in a second is.
            least_seconds: that the sample takes, however fast its bytes come; less than a second.
        """
        self._sample_bytes = sample_bytes
        self._least_seconds = least_seconds
        self._bytes = 0
        self._first: float | None = None
        # When half of the sample was there, and what was.
        self._half: tuple[float, int] | None = None

    def arrived(self, count: int, now: float) -> None:
        """Note bytes that arrived at a time, in seconds of any one clock."""
        if self._first is None:
            self._first = now
        self._bytes += count
        if self._half is None and self._reaches(0.5, now - self._first):
            self._half = (now, self._bytes)

    def rate(self, now: float) -> float | None:
        """Return bytes a second, or None as long as there is too little to say."""
        if self._first is None or self._half is None:
            return None
        if not self._reaches(1.0, now - self._first):
            return None
        since, before = self._half
        return (self._bytes - before) / (now - since) if now > since and self._bytes > before else None

    def _reaches(self, part: float, seconds: float) -> bool:
        is_enough = self._bytes >= part * self._sample_bytes and seconds >= part * self._least_seconds
        return is_enough or seconds >= part * _SAMPLE_SECONDS
