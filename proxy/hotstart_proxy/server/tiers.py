"""Latency tiers of requests: what is asked for, who may have it, and how much batch is let in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hotstart.wire.errors import HotstartError
from hotstart_proxy.core.tiers import Tier

__all__ = ["TIER_ANSWER", "TIER_HEADER", "BatchFull", "BatchLimit", "InvalidTier", "parse_tier"]

TIER_HEADER = "X-Latency-Tier"
# Says which tier a request that named one was served as.
TIER_ANSWER = "Hotstart-Tier"
_NAMES = {tier.name.lower(): tier for tier in (Tier.PREMIUM, Tier.STANDARD, Tier.BATCH)}
# About the time in which a transfer of a gigabyte ends.
_RETRY_AFTER_SECONDS = 5
_MAX_SHOWN_CHARS = 40


class InvalidTier(HotstartError):
    """The header that names a tier names none.

    Attributes:
        value: what was sent.
    """

    def __init__(self, value: str) -> None:
        self.value = value
        shown = value if len(value) <= _MAX_SHOWN_CHARS else value[:_MAX_SHOWN_CHARS] + "…"
        super().__init__(f"{TIER_HEADER}: {shown!r}: expected {', '.join(_NAMES)}, or no such header")


class BatchFull(HotstartError):
    """As many requests of tier batch are answered as may be, and this one cannot be redirected.

    Attributes:
        most: how many may be.
        retry_after_seconds: when it is worth another try.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.retry_after_seconds = _RETRY_AFTER_SECONDS
        super().__init__(
            f"{most} requests of tier batch are being answered, the most there may be: ask again later"
        )


def parse_tier(value: str | None) -> Tier:
    """Read the header; standard without one.

    Raises:
        InvalidTier: it names no tier, or several.
    """
    if value is None:
        return Tier.STANDARD
    tier = _NAMES.get(value.strip().lower())
    if tier is None:
        raise InvalidTier(value)
    return tier


class BatchLimit:
    """How many requests of tier batch are answered at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.present = 0

    @property
    def full(self) -> bool:
        """Tell whether no more may come in."""
        return self.present >= self.most

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Count one more inside.

        Raises:
            BatchFull
        """
        if self.full:
            raise BatchFull(self.most)
        self.present += 1
        try:
            yield
        finally:
            self.present -= 1
