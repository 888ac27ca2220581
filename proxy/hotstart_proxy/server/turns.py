"""Whose turn it is to send: ``core.admission.SendTurns`` for the writers of one event loop.

Standard transfers have nothing to do with it. Premium ones tell when they can send and when they rest, which
costs nothing worth measuring; batch ones ask before every portion, and sleep while it is not their turn.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from hotstart_proxy.core.admission import SendTurns
from hotstart_proxy.core.tiers import Tier

__all__ = ["Turn", "Turns"]


class Turn(ABC):
    """One transfer's part in it."""

    @abstractmethod
    def claim(self) -> float:
        """Ask to send the next portion; 0 lets it be sent, else ask again after so many seconds."""

    async def take(self) -> None:
        """Wait until the next portion may be sent."""
        # No event: premium transfers would pay for setting it, and what is slept through is short.
        while (seconds := self.claim()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(seconds)

    @abstractmethod
    def rest(self) -> None:
        """Say that nothing can be sent now, or ever again; idempotent."""


class Turns:
    """The turns of all transfers of a process."""

    def __init__(self) -> None:
        self._turns = SendTurns()

    def of(self, tier: Tier) -> Turn | None:
        """Return a new transfer's part; None where it neither asks nor tells."""
        if tier is Tier.PREMIUM:
            return _PremiumTurn(self._turns)
        return None if tier is Tier.STANDARD else _BatchTurn(self._turns)


class _PremiumTurn(Turn):
    def __init__(self, turns: SendTurns) -> None:
        self._turns = turns
        self._ready = False

    def claim(self) -> float:
        if not self._ready:
            self._ready = True
            self._turns.premium_ready()
        return 0.0

    def rest(self) -> None:
        if self._ready:
            self._ready = False
            self._turns.premium_rests(asyncio.get_running_loop().time())


class _BatchTurn(Turn):
    def __init__(self, turns: SendTurns) -> None:
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()

    def claim(self) -> float:
        now = self._loop.time()
        seconds = self._turns.batch_waits(now, self._sent_at)
        if seconds <= 0:
            self._sent_at = now
        return seconds

    def rest(self) -> None:
        """Nobody waits for it."""
