"""Slots for the tasks of one event loop, granted as ``core.admission`` decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from hotstart_proxy.core.admission import SlotQueue
from hotstart_proxy.core.tiers import Tier

__all__ = ["Slots"]


class Slots:
    """A semaphore that serves the most urgent first. A cancelled waiter or holder loses no slot."""

    def __init__(self, ceilings: Mapping[Tier, int]) -> None:
        """Begin with all slots free; ceilings as in ``SlotQueue``."""
        self._queue = SlotQueue(ceilings)
        self._granted: dict[int, asyncio.Future[None]] = {}

    @property
    def held(self) -> int:
        """Return how many slots are held."""
        return self._queue.held

    @property
    def waiting(self) -> int:
        """Return how many tasks wait for one."""
        return self._queue.waiting

    @asynccontextmanager
    async def slot(self, tier: Callable[[], Tier]) -> AsyncIterator[None]:
        """Hold a slot inside.

        Args:
            tier: as in ``SlotQueue.ask``; call review when its answer changes.
        """
        token = self._queue.ask(tier)
        granted = self._granted[token] = asyncio.get_running_loop().create_future()
        try:
            self.review()
            await granted
            yield
        finally:
            # One that was granted a slot in the very moment of its cancellation gives it back here too.
            del self._granted[token]
            self._queue.leave(token)
            self.review()

    def review(self) -> None:
        """Grant what can be granted now."""
        for token in self._queue.grant():
            granted = self._granted[token]
            # Cancelled and not yet left: it gives the slot back as soon as it runs.
            if not granted.done():
                granted.set_result(None)
