"""Single-flight: many ask for one thing, one task gets it, nobody's cancellation ends it for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from .answers import CacheClosed

__all__ = ["Flights", "landed"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


async def landed(task: asyncio.Task[T]) -> T:
    """Return what a task comes to; cancelling this does not cancel the task.

    Raises:
        CacheClosed: the task was cancelled.
    """
    await asyncio.wait([task])
    if task.cancelled():
        raise CacheClosed
    return task.result()


class Flights(Generic[K, T]):
    """Tasks under way, by key."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[T]] = {}

    def task(self, key: K, begin: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Return the task under way for key, begun if there is none."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(begin())
            task.add_done_callback(lambda ended: self._landed(key, ended))
        return task

    async def run(self, key: K, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what the task for key comes to; cancelling this does not cancel it.

        Raises:
            CacheClosed: the task was cancelled by close.
        """
        return await landed(self.task(key, begin))

    async def wait(self, key: K) -> None:
        """Wait until the task for key is over, if there is one, whatever it comes to."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.wait([task])

    def _landed(self, key: K, task: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            # Every waiter may have gone; its error is nobody's news then.
            task.exception()

    async def close(self) -> None:
        """Cancel all tasks under way and wait for them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
