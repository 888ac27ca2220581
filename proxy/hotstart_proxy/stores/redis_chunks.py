"""The bytes of blobs in Redis: chunks, read whole and verified before any of them is given to anybody.

All readers of a proxy share the last few chunks, each of them fetched once however many wait for it. So 64
readers of one blob cost Redis one copy, a small range does not cost 4 MiB each time, and memory is bounded:
a reader holds no chunk, only the slice that is being sent, and takes the next one from what is shared, or
fetches the chunk again where others have pushed it out.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from hotstart.wire.pieces import piece_range, pieces_of
from hotstart.wire.ranges import ByteRange

from .redis_keys import chunk_key
from .redis_link import RedisLink

__all__ = ["ChunkMissing", "Chunks"]

# Of all readers together: 48 MiB.
_MOST_SHARED: Final = 12
_AHEAD: Final = 3
# What a reader holds while it is sent. More, and many readers add up; less, and a chunk that was pushed out
# is fetched again more often.
_SLICE_BYTES: Final = 1024 * 1024

_Key = tuple[str, int, int]


class ChunkMissing(Exception):
    """A chunk is not there, or not what its digest says; never leaves the store.

    Attributes:
        piece: which.
        crc32: what it should have had.
    """

    def __init__(self, piece: int, crc32: int) -> None:
        self.piece = piece
        self.crc32 = crc32
        super().__init__(piece, crc32)


class Chunks:
    """All chunks of a store."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        # By use, the last one standing last.
        self._shared: OrderedDict[_Key, bytes | bytearray] = OrderedDict()
        self._coming: dict[_Key, asyncio.Task[bytes | bytearray]] = {}
        self._readers = 0

    async def write(self, content_id: str, piece: int, data: bytes, crc32: int) -> None:
        """Keep one chunk, verified by the caller."""
        doing = f"writing piece {piece} of blob {content_id}"
        await self._link.command(doing, "SET", chunk_key(content_id, piece), data, bulk=True)
        self._share((content_id, piece, crc32), data)

    async def fetch(self, content_id: str, piece: int, length: int, crc32: int) -> bytes | bytearray:
        """Return a chunk as Redis has it, verified.

        Raises:
            ChunkMissing
            StoreError
        """
        doing = f"reading piece {piece} of blob {content_id}"
        key = chunk_key(content_id, piece)
        data = await self._link.value(doing, key, length)
        if data is None or len(data) != length or await asyncio.to_thread(zlib.crc32, data) != crc32:
            raise ChunkMissing(piece, crc32)
        self._share((content_id, piece, crc32), data)
        return data

    def _share(self, key: _Key, data: bytes | bytearray) -> None:
        self._shared[key] = data
        self._shared.move_to_end(key)
        while len(self._shared) > _MOST_SHARED:
            self._shared.popitem(last=False)

    async def read(
        self, content_id: str, size: int, crc32: Sequence[int | None], wanted: ByteRange
    ) -> AsyncGenerator[bytes, None]:
        """Yield wanted bytes of a blob in order, fetching some chunks ahead.

        Args:
            content_id, size: the blob's.
            crc32: per piece; None where it is not there.
            wanted: within the blob.

        Raises (while iterating):
            ChunkMissing
            StoreError
        """
        pieces = pieces_of(wanted)
        self._readers += 1
        try:
            for piece in pieces:
                place = piece_range(piece, size)
                position, stop = max(place.start, wanted.start), min(place.stop, wanted.stop)
                self._fetch_ahead(content_id, size, crc32, range(piece + 1, pieces.stop))
                while position < stop:
                    until = min(position + _SLICE_BYTES, stop)
                    yield await self._slice(
                        content_id, size, piece, crc32[piece], position - place.start, until - place.start
                    )
                    position = until
        finally:
            self._readers -= 1

    async def _slice(
        self, content_id: str, size: int, piece: int, crc32: int | None, start: int, stop: int
    ) -> bytes:
        # A function of its own, so that no reader's frame holds the whole chunk while its slice is sent.
        if crc32 is None:
            raise ChunkMissing(piece, 0)
        chunk = await self._chunk(content_id, size, piece, crc32)
        return bytes(memoryview(chunk)[start:stop])

    async def _chunk(self, content_id: str, size: int, piece: int, crc32: int) -> bytes | bytearray:
        key = (content_id, piece, crc32)
        shared = self._shared.get(key)
        if shared is not None:
            self._shared.move_to_end(key)
            return shared
        # Shielded: whoever else waits for it still wants it.
        return await asyncio.shield(self._begin(key, size))

    def _fetch_ahead(self, content_id: str, size: int, crc32: Sequence[int | None], pieces: range) -> None:
        # Where many read, what one fetches ahead would push out what another needs now.
        ahead = min(_AHEAD, _MOST_SHARED // (2 * self._readers))
        for piece in pieces[:ahead]:
            value = crc32[piece]
            if value is not None and (content_id, piece, value) not in self._shared:
                self._begin((content_id, piece, value), size)

    def _begin(self, key: _Key, size: int) -> asyncio.Task[bytes | bytearray]:
        task = self._coming.get(key)
        if task is None:
            content_id, piece, crc32 = key
            length = len(piece_range(piece, size))
            task = asyncio.create_task(self.fetch(content_id, piece, length, crc32))
            self._coming[key] = task
            task.add_done_callback(lambda done: self._came(key, done))
        return task

    def _came(self, key: _Key, task: asyncio.Task[bytes | bytearray]) -> None:
        del self._coming[key]
        if not task.cancelled():
            # Nobody may have waited for it.
            task.exception()

    async def missing(self, doing: str, content_id: str, pieces: Sequence[int]) -> list[int]:
        """Return those of these pieces whose chunk is not there, without reading any."""
        found = await self._link.many(doing, [("EXISTS", chunk_key(content_id, piece)) for piece in pieces])
        return [piece for piece, there in zip(pieces, found, strict=True) if not there]

    async def remove(self, doing: str, content_id: str, pieces: Sequence[int]) -> None:
        """Remove chunks; no error if they are not there."""
        await self._link.many(doing, [("UNLINK", chunk_key(content_id, piece)) for piece in pieces])

    async def close(self) -> None:
        """End what is being fetched ahead."""
        tasks = list(self._coming.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._shared.clear()
