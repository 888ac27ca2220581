"""How a process comes to its share in a fill: by creating the partial blob, or by joining in (``parts``)."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from hotstart.wire.errors import FormatError

from .base import BlobBusy, NoSpaceNow, StoreError
from .exclusion import Exclusion
from .fillmap import SETUP_BYTE, FillMap
from .folders import Folders
from .inventory import Inventory
from .ledger import Space
from .listing import look
from .parts import OpenPart, create_part, drop_part, erase, is_set_up, open_part, set_up
from .system import System
from .threads import Threads, store_error

__all__ = ["Joined", "Joining"]

# Of giving a large file its space: seconds on a tmpfs, nothing elsewhere.
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.01
# A fill may end in another process between finding it and joining it.
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Joined:
    """A share in a fill: the files are the holder's to close, and the space to let go."""

    known: FillMap
    opened: OpenPart
    space: Space


class Joining:
    """Begins and joins fills for one store."""

    def __init__(
        self, folders: Folders, store: str, system: System, exclusion: Exclusion, inventory: Inventory
    ) -> None:
        self._folders = folders
        self._store = store
        self._system = system
        self._exclusion = exclusion
        self._inventory = inventory
        self._threads = Threads(store)

    async def join(self, doing: str, content_id: str, size: int) -> Joined | None:
        """Reserve space for a fill, or join in one; None if the blob is complete.

        Raises:
            NoSpaceNow, BlobBusy, StoreError: nothing is reserved.
        """
        for _ in range(_TRIES):
            async with self._exclusion:
                await self.look(doing)
                if self._inventory.blobs.get(content_id) == size:
                    return None
                opened = await self._open(doing, content_id, size)
                space = self._inventory.partial(content_id) or self._inventory.add_partial(content_id, size)
                space.hold()
            known = await self._checked(doing, content_id, size, opened, space)
            if known is not None:
                return Joined(known, opened, space)
        raise BlobBusy(self._store, doing, "other processes begin and end it all the time")

    async def look(self, doing: str) -> None:
        """Bring the inventory up to date. Under the exclusion."""
        system, folders, marks = self._system, self._folders, self._inventory.marks
        self._inventory.take_in(await self._threads.finish(doing, lambda: look(system, folders, marks)))

    async def _open(self, doing: str, content_id: str, size: int) -> OpenPart:
        system, folders, ledger = self._system, self._folders, self._inventory.ledger

        def close(late: OpenPart | None) -> None:
            if late is not None:
                late.close()

        def remove(late: OpenPart) -> None:
            erase(system, folders, content_id, late)
            late.close()

        try:
            opened = await self._threads.finish(doing, lambda: open_part(system, folders, content_id), close)
            if opened is not None:
                return opened
            if not ledger.fits_now(size):
                reason = f"{ledger.used_bytes} of {ledger.budget_bytes} bytes are in use"
                raise NoSpaceNow(self._store, doing, reason)
            create = self._threads.finish(
                doing, lambda: create_part(system, folders, content_id, size), remove
            )
            return await create
        except StoreError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise BlobBusy(self._store, doing, "another process is filling it") from error
            raise

    async def _checked(
        self, doing: str, content_id: str, size: int, opened: OpenPart, space: Space
    ) -> FillMap | None:
        """Return the map of an opened part, or close it: None if its fill is over, or was of no use."""
        known: FillMap | None = None
        try:
            known = await self._set_up(doing, content_id, size, opened)
        except FormatError as error:
            opened.close()
            if not await self._drop(doing, content_id):
                raise BlobBusy(self._store, doing, f"another process fills it, and {error}") from error
        except BaseException:
            opened.close()
            with contextlib.suppress(StoreError):
                await self._drop(doing, content_id, only_empty=True)
            raise
        else:
            if known is None:
                opened.close()
        finally:
            if known is None:
                space.let_go()
        return known

    async def _set_up(self, doing: str, content_id: str, size: int, opened: OpenPart) -> FillMap | None:
        await self._wait_for_setup(doing, opened)
        try:
            if opened.gone:
                return None
            return await self._threads.finish(doing, lambda: set_up(self._system, opened, content_id, size))
        finally:
            self._system.unclaim(opened.map, SETUP_BYTE, SETUP_BYTE + 1)

    async def _wait_for_setup(self, doing: str, opened: OpenPart) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + _PATIENCE_SECONDS
        try:
            while not self._system.claim(opened.map, SETUP_BYTE, SETUP_BYTE + 1):
                if clock() > deadline:
                    raise BlobBusy(
                        self._store, doing, "another process does not come to an end with reserving"
                    )
                await asyncio.sleep(_POLL_SECONDS)
        except OSError as error:
            raise store_error(self._store, doing, error) from error

    async def _drop(self, doing: str, content_id: str, *, only_empty: bool = False) -> bool:
        async with self._exclusion:
            if only_empty and is_set_up(self._folders, content_id):
                return False
            dropped = await self._threads.finish(
                doing, lambda: drop_part(self._system, self._folders, content_id)
            )
            if dropped:
                self._inventory.remove_partial(content_id)
            return dropped
