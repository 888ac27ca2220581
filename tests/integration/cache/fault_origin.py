"""An origin that counts what it gives, and that tests can hold, cut, damage and take away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from hotstart.wire.catalog import Listing, ObjectBytes
from hotstart.wire.manifest import OriginObject
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.origins.base import ObjectInfo, Origin, OriginUnreachable, PresignedUrl

_CHUNK_BYTES = 256 * 1024


class FaultOrigin(Origin):
    """Passes everything on to another origin, but for the faults that are set.

    Attributes:
        given: bytes of every object that were given out, by key.
        gets, reads: how often objects were streamed and documents read, by key.
        away: every call fails.
        silent: reads of documents wait for this event, if it is set to one.
        holds: bytes of these ranges of an object wait for the event.
        cuts: a read of the object fails once it has come to this offset; each entry works once.
        damages: the byte at this offset of the object is wrong, for as many reads of it.
    """

    def __init__(self, inner: Origin, *, can_presign: bool = False) -> None:
        self.url = inner.url
        self.identity = inner.identity
        self.can_presign = can_presign
        self.given: Counter[str] = Counter()
        self.gets: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.away = False
        self.silent: asyncio.Event | None = None
        self.holds: list[tuple[str, ByteRange, asyncio.Event]] = []
        self.cuts: list[tuple[str, int]] = []
        self.damages: dict[tuple[str, int], int] = {}
        self.before_chunk: Callable[[str, int], None] | None = None
        self._inner = inner

    def hold(self, key: str, held: ByteRange) -> asyncio.Event:
        """Hold bytes of an object back until the event that is returned is set."""
        event = asyncio.Event()
        self.holds.append((key, held, event))
        return event

    def _check(self, doing: str) -> None:
        if self.away:
            raise OriginUnreachable(self.url, doing, "it is away")

    async def __aenter__(self) -> FaultOrigin:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def read(self, key: str, known_etag: str | None = None) -> ObjectBytes | None:
        self._check(f"reading {key}")
        self.reads[key] += 1
        if self.silent is not None:
            await self.silent.wait()
        return await self._inner.read(key, known_etag)

    def get(self, item: OriginObject, wanted: ByteRange) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._get(item, wanted)

    @asynccontextmanager
    async def _get(self, item: OriginObject, wanted: ByteRange) -> AsyncIterator[AsyncIterator[bytes]]:
        self._check(f"reading {item.key}")
        self.gets[item.key] += 1
        async with self._inner.get(item, wanted) as chunks:
            yield self._chunks(item.key, wanted, chunks)

    async def _chunks(
        self, key: str, wanted: ByteRange, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        offset = wanted.start
        async for whole in chunks:
            for start in range(0, len(whole), _CHUNK_BYTES):
                chunk = whole[start : start + _CHUNK_BYTES]
                here = ByteRange(offset, offset + len(chunk))
                for held_key, held, event in list(self.holds):
                    if held_key == key and len(held.intersection(here)):
                        await event.wait()
                self._check(f"reading {key}")
                for cut in list(self.cuts):
                    if cut[0] == key and here.start <= cut[1] < here.stop:
                        self.cuts.remove(cut)
                        raise OriginUnreachable(self.url, f"reading {key}", "connection reset")
                if self.before_chunk is not None:
                    self.before_chunk(key, offset)
                self.given[key] += len(chunk)
                yield self._damaged(key, here, chunk)
                offset += len(chunk)

    def _damaged(self, key: str, here: ByteRange, chunk: bytes) -> bytes:
        for (damaged_key, offset), times in list(self.damages.items()):
            if damaged_key == key and here.start <= offset < here.stop and times > 0:
                self.damages[(damaged_key, offset)] = times - 1
                place = offset - here.start
                chunk = chunk[:place] + bytes([chunk[place] ^ 1]) + chunk[place + 1 :]
        return chunk

    async def head(self, key: str) -> ObjectInfo | None:
        self._check(f"describing {key}")
        return await self._inner.head(key)

    async def list(self, prefix: str, *, recursive: bool) -> Listing:
        self._check(f"listing {prefix}")
        return await self._inner.list(prefix, recursive=recursive)

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        create_only: bool = False,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
        media_type: str = "application/octet-stream",
    ) -> ObjectInfo:
        return await self._inner.put(
            key,
            data,
            create_only=create_only,
            if_match=if_match,
            metadata=metadata,
            media_type=media_type,
        )

    async def upload(
        self,
        key: str,
        source: Path,
        *,
        metadata: Mapping[str, str],
        media_type: str,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        return await self._inner.upload(
            key, source, metadata=metadata, media_type=media_type, progress=progress
        )

    async def clear_uploads(self, prefix: str) -> None:
        await self._inner.clear_uploads(prefix)

    async def delete(self, key: str) -> None:
        await self._inner.delete(key)

    async def presign(self, item: OriginObject, expires_in_seconds: int) -> PresignedUrl | None:
        self._check(f"signing {item.key}")
        if not self.can_presign:
            return None
        return PresignedUrl(f"https://origin.invalid/{item.key}?signed", expires_in_seconds)

    async def check_publishable(self) -> None:
        await self._inner.check_publishable()
