"""The store in Redis, layout 1: one server or a cluster, shared by any number of proxies.

Redis is a cache that forgets: any key may vanish at any time, by eviction, a flush or a failover, and a key
that vanished is found missing when it is used or by the next sweep. Nothing here is believed for having been
written; a chunk is what its crc32 says, or it is fetched again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from hotstart.wire.pieces import Pieces, piece_count
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.telemetry.logs import log_event

from .base import (
    Blob,
    BlobBusy,
    FileSlice,
    NeverFits,
    NoSpaceNow,
    PartialBlob,
    Store,
    StoreError,
    Usage,
    Vanished,
)
from .redis_chunks import ChunkMissing, Chunks
from .redis_documents import RedisDocuments
from .redis_keys import LEDGER, Record, State, blob_key, lease_key
from .redis_ledger import LedgerGone, RedisLedger, default_budget
from .redis_link import RedisLink
from .redis_partial import RedisPartial
from .redis_records import Records
from .redis_sweep import Found, scan
from .redis_urls import RedisPlace

__all__ = ["RedisStore"]

_log = logging.getLogger("hotstart_proxy.store")
# How soon what a killed proxy had claimed is fetched by another, and how long one may be stopped for without
# others fetching the same.
_LEASE_SECONDS: Final = 5.0
# A chunk of 4 MiB over a slow network, with others before it.
_TIMEOUT_SECONDS: Final = 5.0
_REFRESH_SECONDS: Final = 5.0
# How often the ledger may vanish between being made and being read.
_TRIES: Final = 2


class RedisBlob(Blob):
    """A complete blob, open."""

    def __init__(self, store: RedisStore, content_id: str, record: Record) -> None:
        self.id = content_id
        self.size = record.size
        self._store = store
        self._record = record
        self._closed = False

    async def parts(self, wanted: ByteRange) -> AsyncIterator[FileSlice | bytes]:
        """Yield chunks, all of them verified.

        Raises (while iterating):
            Vanished: the store has lost the next one; it is marked as missing.
            StoreError
        """
        async with contextlib.aclosing(self._store.read(self.id, self._record, wanted)) as slices:
            async for part in slices:
                yield part

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._store.let_go(self.id)


class RedisStore(Store):
    """Blobs, documents and one budget in Redis, for all proxies that use it."""

    def __init__(
        self,
        place: RedisPlace,
        budget_bytes: int | None = None,
        *,
        lease_seconds: float = _LEASE_SECONDS,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        refresh_seconds: float = _REFRESH_SECONDS,
    ) -> None:
        """Name a store; nothing is connected until it is entered.

        Args:
            place: of the Redis.
            budget_bytes: for blobs and fills of all proxies together; None for a share of Redis's memory.
            lease_seconds: after which what a dead proxy has claimed is free.
            timeout_seconds: what one request may take.
            refresh_seconds: how often it is looked at what others have done.
        """
        self.url = place.url
        self._link = RedisLink(place, timeout_seconds, self._came)
        self._ledger = RedisLedger(self._link, budget_bytes)
        self._records = Records(self._link, lease_seconds)
        self._chunks = Chunks(self._link)
        self._documents = RedisDocuments(self._link)
        self._refresh_seconds = refresh_seconds
        self._sizes: dict[str, int] = {}
        self._filling: set[str] = set()
        # How often a blob is open here, fills included; the chunks of one that was removed go with the last.
        self._open: Counter[str] = Counter()
        self._removed: dict[str, int] = {}
        # What this process changed itself since a look at Redis began that it may not undo.
        self._changed: set[str] = set()
        # One look at a time; a second one would forget what was changed since the first began.
        self._turns = asyncio.Lock()
        self._upkeep: asyncio.Task[None] | None = None
        self._partials: set[RedisPartial] = set()

    async def __aenter__(self) -> RedisStore:
        await self._link.open()
        self._upkeep = asyncio.create_task(self._keep_up())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.wait([self._upkeep])
        # Whoever was cancelled while closing one has left it to itself, and it needs the connections.
        await asyncio.gather(*(partial.close() for partial in self._partials))
        await self._chunks.close()
        await self._link.close()

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds)
            try:
                await self.refresh()
            except StoreError:
                # Whatever it is, the link knows, and says so in its trouble.
                continue
            except Exception as error:  # noqa: BLE001  what others do must be followed after it, too
                fields = {"store": self.url, "error": repr(error)}
                log_event(_log, logging.ERROR, "looking at what others have done failed", fields)

    async def _came(self) -> None:
        doing = "opening the store"
        if self._ledger.budget_bytes is None:
            self._ledger.budget_bytes, reason = await default_budget(self._link, doing)
            fields = {"store": self.url, "bytes": self._ledger.budget_bytes, "reason": reason}
            log_event(_log, logging.INFO, "no budget given", fields)
        await self._sweep()

    # Blobs

    async def open_blob(self, content_id: str) -> Blob | None:
        doing = f"opening blob {content_id}"
        record = await self._records.read(doing, content_id)
        if record is None or record.state is not State.COMPLETE:
            size = self._sizes.pop(content_id, None)
            self._changed.add(content_id)
            if record is None and size is not None:
                await self._remove(content_id, size)
            return None
        self._learn(content_id, record.size)
        self._open[content_id] += 1
        return RedisBlob(self, content_id, record)

    async def read(self, content_id: str, record: Record, wanted: ByteRange) -> AsyncGenerator[bytes, None]:
        """Yield bytes of an open blob (as ``RedisBlob.parts``)."""
        reading = self._chunks.read(content_id, record.size, record.crc32, wanted)
        try:
            async with contextlib.aclosing(reading) as slices:
                async for part in slices:
                    yield part
        except ChunkMissing as missing:
            doing = f"reading piece {missing.piece} of blob {content_id}"
            pieces = {missing.piece: missing.crc32}
            await self._records.unmark(doing, content_id, record.generation, pieces)
            raise Vanished(self.url, doing, "it is gone or damaged") from missing

    async def let_go(self, content_id: str) -> None:
        """Count one open blob less; the last one of a removed blob frees its space."""
        self._open[content_id] -= 1
        if not self._open[content_id]:
            del self._open[content_id]
            if content_id in self._removed:
                await self._remove(content_id, self._removed[content_id])

    def _learn(self, content_id: str, size: int) -> None:
        self._removed.pop(content_id, None)
        self._changed.add(content_id)
        self._sizes[content_id] = size
        self._ledger.saw(content_id, size)

    async def delete(self, content_id: str) -> bool:
        doing = f"removing blob {content_id}"
        record = (await self._records.headers(doing, [content_id]))[content_id]
        size = self._sizes.get(content_id) if record is None else record.size
        removed = await self._records.delete(doing, content_id)
        known = self._sizes.pop(content_id, None) is not None
        self._changed.add(content_id)
        if size is not None and (removed or (known and record is None)):
            await self._remove(content_id, size)
        return removed

    async def quarantine(self, content_id: str) -> bool:
        # Nothing is kept for a look: each piece's crc32 was compared, so there is nothing to be seen in it.
        return await self.delete(content_id)

    async def _remove(self, content_id: str, size: int) -> None:
        """Free the space of a blob whose record is gone, once nobody here has it open."""
        self._removed[content_id] = size
        if self._open[content_id]:
            return
        del self._removed[content_id]
        with contextlib.suppress(StoreError):
            # What stays is found by a sweep.
            await self._reclaim(content_id, range(piece_count(size)))

    async def _reclaim(self, content_id: str, pieces: Iterable[int]) -> None:
        # In this order: see redis_ledger.
        doing = f"freeing the space of blob {content_id}"
        entry = await self._ledger.entry(doing, content_id)
        if await self._link.command(doing, "EXISTS", blob_key(content_id)):
            return
        await self._chunks.remove(doing, content_id, list(pieces))
        if entry is None:
            self._ledger.missed(content_id)
        else:
            await self._ledger.remove(doing, content_id, entry)

    # Fills

    async def begin_fill(self, content_id: str, size: int, pieces: Pieces | None) -> PartialBlob | None:
        doing = f"reserving {size} bytes for blob {content_id}"
        budget = self._ledger.budget_bytes
        if budget is None:
            raise StoreError(self.url, doing, self._link.trouble or "its budget is not known yet")
        if size > budget:
            raise NeverFits(self.url, doing, f"the whole budget is {budget} bytes")
        if content_id in self._filling:
            raise BlobBusy(self.url, doing, "this process is filling it already")
        self._filling.add(content_id)
        try:
            partial = await self._begin(doing, content_id, size, pieces)
        except BaseException:
            self._filling.discard(content_id)
            raise
        if partial is None:
            self._filling.discard(content_id)
            self._learn(content_id, size)
        return partial

    async def _begin(
        self, doing: str, content_id: str, size: int, pieces: Pieces | None
    ) -> RedisPartial | None:
        await self._reserve(doing, content_id, size)
        begun = await self._records.begin(doing, content_id, size)
        if begun is None:
            return None
        name, record = begun
        try:
            # Whoever saw the reservation without a record may have taken it back.
            await self._reserve(doing, content_id, size)
            if pieces is not None:
                known = enumerate(record.crc32)
                wrong = {i: value for i, value in known if value is not None and value != pieces.crc32[i]}
                if wrong:
                    await self._records.unmark(doing, content_id, name.generation, wrong)
                    kept = tuple(None if i in wrong else value for i, value in enumerate(record.crc32))
                    record = replace(record, crc32=kept)
        except BaseException:
            with contextlib.suppress(StoreError):
                await self._records.leave(doing, name)
            raise
        self._sizes.pop(content_id, None)
        self._changed.add(content_id)
        self._removed.pop(content_id, None)
        self._open[content_id] += 1
        partial = RedisPartial(
            self.url, self._records, self._chunks, name, record, pieces, self._fill_ended, self._fill_closed
        )
        self._partials.add(partial)
        return partial

    async def _reserve(self, doing: str, content_id: str, size: int) -> None:
        for fresh in (False, True):
            if fresh:
                # What was counted may be gone since, and the caller makes room by what we know.
                await self.refresh()
            try:
                if await self._ledger.reserve(doing, content_id, size):
                    return
                is_gone = False
            except LedgerGone:
                is_gone = True
        if is_gone:
            raise self._not_kept(doing)
        usage = self.usage()
        reason = f"{usage.used_bytes} of {usage.budget_bytes} bytes are in use"
        raise NoSpaceNow(self.url, doing, reason)

    def _fill_ended(self, ended: RedisPartial) -> None:
        self._filling.discard(ended.id)
        if ended.committed:
            self._learn(ended.id, ended.size)
        elif ended.discarded:
            self._removed[ended.id] = ended.size

    async def _fill_closed(self, closed: RedisPartial) -> None:
        try:
            await self.let_go(closed.id)
        finally:
            # Not earlier: the store must not close its connections under it.
            self._partials.discard(closed)

    async def drop_partials(self, idle_seconds: float) -> int:
        await self._sweep()
        freed = 0
        for content_id, size in list(self._ledger.sizes.items()):
            if content_id in self._sizes or content_id in self._filling:
                continue
            if await self._records.drop(f"dropping partial blob {content_id}", content_id, idle_seconds):
                await self._remove(content_id, size)
                freed += size
        return freed

    # What others do

    async def refresh(self) -> None:
        async with self._turns:
            try:
                await self._look("looking at what others have done")
            except LedgerGone:
                await self._look_through()

    async def _look(self, doing: str) -> None:
        """See what others have reserved, committed and removed.

        Raises:
            LedgerGone
            StoreError
        """
        self._changed.clear()
        await self._ledger.read(doing)
        headers = await self._records.headers(doing, list(self._ledger.sizes))
        self._see(headers)
        for content_id, record in headers.items():
            if record is None and self._is_nobodys(content_id):
                await self._reclaim(content_id, range(piece_count(self._ledger.sizes.get(content_id, 0))))

    def _see(self, records: Mapping[str, Record | None]) -> None:
        complete = {
            name: record.size
            for name, record in records.items()
            if record is not None and record.state is State.COMPLETE and name not in self._changed
        }
        own = {name: size for name, size in self._sizes.items() if name in self._changed}
        self._sizes.clear()
        self._sizes.update(complete | own)

    def _is_nobodys(self, content_id: str) -> bool:
        return not (self._open[content_id] or content_id in self._filling)

    async def _sweep(self) -> None:
        """Compare what lies in Redis: count what is there, forget what is lost, remove what is left over."""
        async with self._turns:
            await self._look_through()

    async def _look_through(self) -> None:
        doing = "looking through the store"
        for _ in range(_TRIES):
            with contextlib.suppress(LedgerGone):
                return await self._compare(doing)
        raise self._not_kept(doing)

    def _not_kept(self, doing: str) -> StoreError:
        what = f"Redis does not keep {LEDGER}, the sums of this store"
        return StoreError(self.url, doing, f"{what}: does something else write or remove it?")

    async def _compare(self, doing: str) -> None:
        self._changed.clear()
        found = await scan(self._link, doing)
        await self._drop_damaged(doing, found)
        sizes = {name: record.size for name, record in found.records.items() if record is not None}
        await self._ledger.install(doing, sizes)
        await self._ledger.read(doing)
        self._see(found.records)
        await self._forget_lost(doing, found)
        for content_id in (self._ledger.sizes.keys() | found.chunks.keys()) - found.records.keys():
            if self._is_nobodys(content_id):
                pieces = found.chunks.get(content_id, set())
                size = self._ledger.sizes.get(content_id, 0)
                await self._reclaim(content_id, pieces.union(range(piece_count(size))))
        for content_id in found.leases - found.records.keys():
            await self._records.drop_lease(doing, content_id)

    async def _drop_damaged(self, doing: str, found: Found) -> None:
        """Remove records of which nobody can say what they are of."""
        damaged = [name for name, record in found.records.items() if record is None]
        keys = [key(name) for name in damaged for key in (blob_key, lease_key)]
        await self._link.many(doing, [("UNLINK", key) for key in keys])
        for name in damaged:
            del found.records[name]

    async def _forget_lost(self, doing: str, found: Found) -> None:
        for content_id, record in found.records.items():
            lost = found.lost(content_id)
            if record is None or not lost:
                continue
            lost = await self._chunks.missing(doing, content_id, lost)
            pieces = {piece: crc32 for piece in lost if (crc32 := record.crc32[piece]) is not None}
            if pieces:
                await self._records.unmark(doing, content_id, record.generation, pieces)
                self._sizes.pop(content_id, None)

    @property
    def trouble(self) -> str | None:
        return self._link.trouble

    def blobs(self) -> Mapping[str, int]:
        # What cannot be read now is not held now.
        return MappingProxyType({} if self.trouble is not None else self._sizes)

    def usage(self) -> Usage:
        budget = self._ledger.budget_bytes or 0
        return Usage(budget, self._ledger.used_bytes, len(self.blobs()))

    # Documents

    async def read_document(self, name: str) -> bytes | None:
        return await self._documents.read(name)

    async def write_document(self, name: str, data: bytes) -> None:
        await self._documents.write(name, data)

    async def delete_document(self, name: str) -> None:
        await self._documents.delete(name)

    async def documents(self) -> Sequence[str]:
        return await self._documents.names()
