"""A partial blob in Redis: its record says which chunks are there, its lease who fetches the others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from typing import Final

from hotstart.wire.errors import IntegrityError
from hotstart.wire.pieces import SHA256_16_BYTES, Pieces, piece_range
from hotstart.wire.ranges import ByteRange

from .base import FileSlice, PartialBlob, StoreError, Vanished
from .redis_chunks import ChunkMissing, Chunks
from .redis_keys import Record, State
from .redis_records import FillName, Records

__all__ = ["RedisPartial"]

# A holder is heard of this often while its claims last.
_RENEWALS_A_LEASE: Final = 4


class RedisPartial(PartialBlob):
    """One process's part in the fill of a blob, whoever else takes part."""

    poll_seconds = 0.05

    def __init__(
        self,
        store: str,
        records: Records,
        chunks: Chunks,
        name: FillName,
        record: Record,
        pieces: Pieces | None,
        ended: Callable[[RedisPartial], None],
        closed: Callable[[RedisPartial], Awaitable[None]],
    ) -> None:
        """Take part in a fill.

        Args:
            store: its URL.
            records, chunks: of the store.
            name: by which we go; its claims are given back by us.
            record: as found; marks that are not what pieces say have been taken back.
            pieces: the announced digests, or None.
            ended: called once when the blob's name is free again for this process: after commit
                (``committed`` is true), discard (``discarded``), or else close.
            closed: called once at the end of close, after ended.
        """
        self.id = name.id
        self.size = record.size
        healing = record.state is State.HEALING
        # What is left of a complete blob is as good as it was: every read of a chunk is verified anyway.
        self.done: list[bool] = [healing and value is not None for value in record.crc32]
        self.left: list[bool] = [not healing and value is not None for value in record.crc32]
        self.crc32: list[int] = [value or 0 for value in record.crc32]
        self.name = name
        self.committed = False
        self.discarded = False
        self._store = store
        self._records = records
        self._chunks = chunks
        self._pieces = pieces
        self._ended = ended
        self._closed = closed
        self._told = False
        self._claimed: set[int] = set()
        # What Redis could not be told of; while we live, it would stay claimed.
        self._unreleased: set[int] = set()
        self._vanished: set[int] = set()
        self._closing: asyncio.Task[None] | None = None
        self._renewing = asyncio.create_task(self._renew())

    def _doing(self, what: str) -> str:
        return f"{what} of blob {self.id}"

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._records.lease_seconds / _RENEWALS_A_LEASE)
            try:
                await self._records.renew(f"renewing the lease of blob {self.id}", self.name)
                await self._release(sorted(self._unreleased))
            except Vanished:
                # Whoever writes or claims next is told; there is nothing to renew any more.
                return
            except StoreError:
                continue

    async def claim(self, pieces: Sequence[int]) -> Sequence[int]:
        wanted = [piece for piece in pieces if not (self.done[piece] or self.left[piece])]
        if not wanted:
            return []
        granted = await self._records.claim(self._doing("claiming pieces"), self.name, wanted)
        self._claimed.update(granted)
        self._unreleased.difference_update(granted)
        return granted

    async def release(self, pieces: Sequence[int]) -> None:
        claimed = [piece for piece in pieces if piece in self._claimed]
        self._claimed.difference_update(claimed)
        self._unreleased.update(claimed)
        with contextlib.suppress(StoreError):
            await self._release(claimed)

    async def _release(self, pieces: Sequence[int]) -> None:
        if pieces:
            await self._records.release(self._doing("releasing pieces"), self.name, pieces)
            self._unreleased.difference_update(pieces)

    async def refresh(self) -> Set[int]:
        seen = await self._records.look(self._doing("looking at the fill"), self.name)
        for piece, crc32 in enumerate(seen.record.crc32):
            if self.done[piece]:
                continue
            if crc32 is None or (self._pieces is not None and self._pieces.crc32[piece] != crc32):
                self.left[piece] = False
            else:
                self.left[piece] = True
                self.crc32[piece] = crc32
        return seen.claimed

    async def recover(self, piece: int) -> bool:
        if self.left[piece]:
            crc32 = self.crc32[piece]
            try:
                data = await self._chunks.fetch(self.id, piece, len(piece_range(piece, self.size)), crc32)
                self.done[piece] = await self._is_announced(piece, data)
            except ChunkMissing:
                pass
            self.left[piece] = False
            if not self.done[piece]:
                await self._unmark({piece: crc32})
        return self.done[piece]

    async def _is_announced(self, piece: int, data: bytes | bytearray) -> bool:
        if self._pieces is None or not self._pieces.sha256_16:
            return True
        found = (await asyncio.to_thread(hashlib.sha256, data)).digest()[:SHA256_16_BYTES]
        start = piece * SHA256_16_BYTES
        return found == self._pieces.sha256_16[start : start + SHA256_16_BYTES]

    async def _unmark(self, pieces: dict[int, int]) -> None:
        doing = self._doing("forgetting lost pieces")
        await self._records.unmark(doing, self.id, self.name.generation, pieces)

    async def write(self, piece: int, data: bytes | bytearray | memoryview, crc32: int) -> None:
        doing = self._doing(f"writing piece {piece}")
        place = piece_range(piece, self.size)
        if len(data) != len(place):
            raise StoreError(self._store, doing, f"{len(data)} bytes: expected {len(place)}")
        # The caller's buffer is used again before Redis's connection is done with it, if we are cancelled.
        kept = bytes(data)
        if not await self._is_announced(piece, kept):
            # So that the commit need not read the whole again.
            raise IntegrityError(f"piece {piece} of blob {self.id}", "its announced sha256", "another")
        await self._chunks.write(self.id, piece, kept, crc32)
        await self._records.mark(doing, self.name, piece, crc32)
        self._claimed.discard(piece)
        self._vanished.discard(piece)
        self.crc32[piece] = crc32
        self.left[piece] = False
        self.done[piece] = True

    async def parts(self, wanted: ByteRange) -> AsyncIterator[FileSlice | bytes]:
        reading = self._chunks.read(self.id, self.size, self.crc32, wanted)
        try:
            async with contextlib.aclosing(reading) as slices:
                async for part in slices:
                    yield part
        except ChunkMissing as missing:
            self.done[missing.piece] = False
            self._vanished.add(missing.piece)
            await self._unmark({missing.piece: missing.crc32})
            doing = self._doing(f"reading piece {missing.piece}")
            raise Vanished(self._store, doing, "it is gone or damaged") from missing

    async def commit(self, sha256: str | None) -> None:
        doing = f"committing blob {self.id}"
        if self._vanished:
            raise Vanished(self._store, doing, f"{len(self._vanished)} pieces have vanished")
        if not all(self.done):
            raise StoreError(self._store, doing, f"{self.done.count(False)} pieces are missing")
        if sha256 is not None and (self._pieces is None or not self._pieces.sha256_16):
            found = await self._sha256()
            if found != sha256:
                await self._discard(force=True)
                raise IntegrityError(f"blob {self.id}", f"sha256 {sha256}", found)
        await self._records.commit(doing, self.name, self.size)
        self.committed = True
        self._tell()

    async def _sha256(self) -> str:
        digest = hashlib.sha256()
        async for part in self.parts(ByteRange(0, self.size)):
            assert isinstance(part, bytes)
            await asyncio.to_thread(digest.update, part)
        return digest.hexdigest()

    async def discard(self) -> None:
        await self._discard(force=False)

    async def _discard(self, *, force: bool) -> None:
        if self.committed or self.discarded:
            return
        gone = await self._records.discard(f"discarding blob {self.id}", self.name, force=force)
        self._renewing.cancel()
        self.discarded = gone
        self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._ended(self)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # Shielded: a reader that is cancelled here must not leave the claims to lapse.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._renewing.cancel()
        await asyncio.wait([self._renewing])
        if not (self.committed or self.discarded):
            with contextlib.suppress(StoreError):
                state = await self._records.leave(f"leaving the fill of blob {self.id}", self.name)
                # A commit that was cut short, or another process's.
                self.committed = state is State.COMPLETE
                self.discarded = state is None
        self._tell()
        with contextlib.suppress(StoreError):
            # What cannot be cleaned up now is found by a later sweep.
            await self._closed(self)
