"""Latency tiers: who goes first when not all can."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Tier"]


class Tier(IntEnum):
    """In rising order of urgency. The first three are what a request may name in ``X-Latency-Tier``.

    WARMING is nobody's request: what the proxy fetches before anyone asks, behind all readers.
    """

    WARMING = 0
    BATCH = 1
    STANDARD = 2
    PREMIUM = 3
