"""Running work beside the event loop: bounded, cancellable, and never left behind when the caller goes on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from hotstart.wire.errors import HotstartError
from hotstart_proxy.origins.threads import finish

__all__ = ["in_thread", "run_bounded", "usable_cpus"]

T = TypeVar("T")


def usable_cpus() -> int:
    """Return how many CPUs this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


async def in_thread(function: Callable[[threading.Event], T]) -> T:
    """Run function in a thread and return its result.

    On cancellation the event that function was given is set, and the thread's end awaited: its files can be
    removed then. So function looks at the event often.
    """
    stop = threading.Event()
    future = asyncio.get_running_loop().run_in_executor(None, function, stop)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        with suppress(HotstartError):
            # Whatever the thread ends with, the cancellation is what the caller hears of.
            await finish(future)
        raise


async def run_bounded(limit: int, jobs: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """Run jobs, at most limit at once, and return their results in order.

    The first error cancels all others; it is raised when they have ended.
    """
    free = asyncio.Semaphore(limit)

    async def run(job: Callable[[], Awaitable[T]]) -> T:
        async with free:
            return await job()

    tasks = [asyncio.create_task(run(job)) for job in jobs]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = next((task for task in tasks if task.done() and _went_wrong(task)), None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failed is not None:
        failed.result()
    return [task.result() for task in tasks]


def _went_wrong(task: asyncio.Task[T]) -> bool:
    return not task.cancelled() and task.exception() is not None
