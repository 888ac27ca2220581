"""Turns between all processes on one store, for what changes names in it or decides by what is there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from .base import StoreError
from .system import System
from .threads import store_error

__all__ = ["Exclusion"]

# What is done under it takes milliseconds, but for the removal of large files.
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.02
_PATIENCE_SECONDS = 30.0


class Exclusion:
    """The lock on a store's folder ``fills``; use as an async context manager.

    The folder itself is locked: a file made for it could be deleted under a running store. The kernel
    releases it with the process. It is never taken twice, and no byte of a blob moves under it.
    """

    def __init__(self, folder: Path, store: str, system: System) -> None:
        """Name the folder, which must be there when it is entered; store is a URL, for errors."""
        self._folder = folder
        self._store = store
        self._system = system
        self._turns = asyncio.Lock()
        self._descriptor = -1

    async def __aenter__(self) -> None:
        """Wait for a turn.

        Raises:
            StoreError: the folder is gone, or another process does not give the lock back.
        """
        await self._turns.acquire()
        try:
            self._descriptor = await self._lock()
        except BaseException:
            self._turns.release()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        os.close(self._descriptor)
        self._turns.release()

    async def _lock(self) -> int:
        doing = f"waiting for a turn in {self._folder}"
        try:
            descriptor = self._system.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise store_error(self._store, doing, error) from error
        try:
            await self._wait_for(descriptor, doing)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    async def _wait_for(self, descriptor: int, doing: str) -> None:
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + _PATIENCE_SECONDS, _FIRST_PAUSE_SECONDS
        try:
            while not self._system.lock(descriptor):
                if clock() > deadline:
                    reason = f"another process has held it for {_PATIENCE_SECONDS:.0f} s: is one stopped?"
                    raise StoreError(self._store, doing, reason)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        except OSError as error:
            raise store_error(self._store, doing, error) from error
