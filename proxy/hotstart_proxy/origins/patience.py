"""Asking again: ``core.retries`` with a clock, randomness and sleep, whatever the origin."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hotstart_proxy.core.retries import Retries, RetryPolicy

from .base import OriginUnreachable

__all__ = ["Patience"]


class Patience:
    """What is left of the patience with one request; the attempts of each kind of origin build on it."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._retries = Retries(policy, random.random)

    @asynccontextmanager
    async def waiting(self, longest_seconds: float) -> AsyncIterator[None]:
        """Bound what is done inside by a time, and by the patience that is left; count it as waited.

        Raises:
            TimeoutError: it took longer.
        """
        now = asyncio.get_running_loop().time
        began = now()
        try:
            async with asyncio.timeout(min(longest_seconds, self._retries.patience_seconds)):
                yield
        finally:
            self._retries.waited(now() - began)

    def received(self, count: int) -> None:
        """Note bytes that arrived."""
        self._retries.waited(0, count)

    async def pause(self, error: OriginUnreachable) -> None:
        """Pause before the next attempt.

        Raises:
            OriginUnreachable: the one given, if there is to be none.
        """
        pause = self._retries.pause_after_failure(error.retry_after_seconds)
        if pause is None:
            raise error
        self._retries.waited(pause)
        await asyncio.sleep(pause)
