"""What every serving process does from start to end: serve until told, drain, close."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Coroutine
from typing import Any

from .service import Service

__all__ = ["loop_factory", "serve_until"]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop; None means asyncio's own."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ModuleNotFoundError:
        # Not on Windows; asyncio's own loop serves there, slower.
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve_until(told: asyncio.Event, service: Service, serving: Callable[[], None]) -> None:
    """Start a service, call ``serving`` when it serves, and drain it when told, be it during the start.

    Raises:
        HotstartError: it cannot serve.
    """
    if not await _unless(told, service.__aenter__()):
        return
    try:
        serving()
        await told.wait()
        await service.drain()
    finally:
        await service.__aexit__(None, None, None)


async def _unless(told: asyncio.Event, starting: Coroutine[Any, Any, object]) -> bool:
    """Run the start, unless the event comes first; tell whether it is done."""
    start = asyncio.ensure_future(starting)
    waiting = asyncio.ensure_future(told.wait())
    await asyncio.wait({start, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not start.done():
        start.cancel()
        await asyncio.wait({start})
        return False
    start.result()
    return True
