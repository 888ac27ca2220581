"""Blocking calls of the file system, made in threads and never left running."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["finish", "in_thread"]

T = TypeVar("T")


async def finish(work: Awaitable[T]) -> T:
    """Await work to its end even when cancelled; the cancel is passed on then."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            # Looked at, so that nobody complains of an error that was never retrieved: the cancel wins.
            task.exception()
        raise


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call function in a thread; a cancel waits until it has returned, so descriptors may be closed then."""
    return await finish(asyncio.to_thread(function, *arguments))
