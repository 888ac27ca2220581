"""Blocking work of a store, in threads: none is left behind unwatched, and its errors are the store's."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any, TypeVar

from .base import NoSpaceNow, StoreError

__all__ = ["Threads", "store_error"]

T = TypeVar("T")


def store_error(store: str, doing: str, error: OSError) -> StoreError:
    """Return the store's error for one of the operating system's."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceNow(store, doing, f"{reason}: lower the budget, or make room on the filesystem")
    return StoreError(store, doing, reason)


class Threads:
    """The threads of one owner, whose files must not be closed under them."""

    def __init__(self, store: str) -> None:
        """Begin with nothing running; store is its URL, for errors."""
        self._store = store
        self._running: set[asyncio.Future[Any]] = set()

    async def run(self, doing: str, work: Callable[[], T], abandoned: Callable[[T], None] | None = None) -> T:
        """Run work in a thread. A cancelled caller is let go at once; the thread goes on.

        Args:
            doing: for errors.
            work: raises OSError or StoreError.
            abandoned: given on the event loop what came of it, if the caller was cancelled.

        Raises:
            StoreError
        """
        future = asyncio.get_running_loop().run_in_executor(None, work)
        self._running.add(future)
        future.add_done_callback(self._ran)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if abandoned is not None:
                future.add_done_callback(lambda done: _hand_over(done, abandoned))
            raise
        except OSError as error:
            raise store_error(self._store, doing, error) from error

    async def finish(
        self, doing: str, work: Callable[[], T], abandoned: Callable[[T], None] | None = None
    ) -> T:
        """Run work in a thread. A cancelled caller waits for its end: for what is done under a lock."""
        task = asyncio.ensure_future(self.run(doing, work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():
                try:
                    await asyncio.wait([task])
                except asyncio.CancelledError:
                    continue
            _hand_over(task, abandoned)
            raise

    async def rest(self) -> None:
        """Wait until nothing runs."""
        while self._running:
            await asyncio.wait(self._running)

    def _ran(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        if not future.cancelled():
            # Whoever waited may have been cancelled; nobody is to complain of what nobody asks for.
            future.exception()


def _hand_over(done: asyncio.Future[T], abandoned: Callable[[T], None] | None) -> None:
    if not done.cancelled() and done.exception() is None and abandoned is not None:
        abandoned(done.result())
