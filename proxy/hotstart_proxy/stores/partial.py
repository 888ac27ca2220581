"""A partial blob on disk, as one of the processes that fill it together sees it (``parts``, ``fillmap``)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence, Set

from hotstart.wire.errors import IntegrityError
from hotstart.wire.pieces import PIECE_BYTES, Pieces, piece_range
from hotstart.wire.ranges import ByteRange

from .base import FileSlice, PartialBlob, StoreError
from .claims import claimed_elsewhere
from .exclusion import Exclusion
from .fillmap import COMMIT_BYTE, ENTRY_BYTES, FillMap, entries, entry_at, entry_bytes, new_map
from .folders import Folders, make_folder, write_all
from .ledger import Space
from .parts import OpenPart, erase, is_named
from .system import System
from .threads import Threads, store_error

__all__ = ["DiskPartial", "Place"]

_BLOB_MODE = 0o444
_READ_BYTES = 1024 * 1024


class Place:
    """Where a partial blob is filled: what all those of one store have in common.

    Attributes:
        url: the store's, for errors.
    """

    def __init__(self, folders: Folders, url: str, system: System, exclusion: Exclusion) -> None:
        self.folders = folders
        self.url = url
        self.system = system
        self.exclusion = exclusion


class DiskPartial(PartialBlob):
    """One process's share in a fill. Writes and the commit run in threads; nothing is closed under them."""

    poll_seconds = 0.025

    def __init__(
        self,
        place: Place,
        known: FillMap,
        pieces: Pieces | None,
        opened: OpenPart,
        space: Space,
        ended: Callable[[DiskPartial], None],
    ) -> None:
        """Take over an open part.

        Args:
            place: of the store.
            known: the map, as it was found.
            pieces: the announced digests; what has others is missing. None: those of the map are trusted.
            opened: closed by us.
            space: held by the caller on our behalf; let go by us.
            ended: called once on the event loop when another fill of the blob may begin here: after commit
                (``committed`` is true), discard (``discarded``), or else close.
        """
        self.id = known.id
        self.size = known.size
        self.done: list[bool] = [False] * len(known.crc32)
        self.left: list[bool] = [False] * len(known.crc32)
        self.crc32: list[int] = [0] * len(known.crc32)
        self.space = space
        self.committed = False
        self.discarded = False
        self._place = place
        self._system = place.system
        self._announced = pieces
        self._map_size = len(new_map(known.id, known.size))
        self._opened = opened
        self._ended = ended
        self._threads = Threads(place.url)
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._told = False
        self._found(self._usable(known.crc32))

    def _usable(self, crc32: Sequence[int | None], first: int = 0) -> dict[int, int]:
        announced = self._announced
        return {
            piece: value
            for piece, value in enumerate(crc32, first)
            if value is not None and (announced is None or announced.crc32[piece] == value)
        }

    def _found(self, written: dict[int, int]) -> None:
        for piece, value in written.items():
            if not self.done[piece]:
                self.left[piece] = True
                self.crc32[piece] = value

    def _written(self, start: int, stop: int) -> dict[int, int]:
        """Read what the map says by now of these pieces."""
        if self._is_erased():
            raise StoreError(self._place.url, f"filling blob {self.id}", "another process has discarded it")
        data = os.pread(self._opened.map, (stop - start) * ENTRY_BYTES, entry_at(start))
        return self._usable(entries(data), start)

    def _is_erased(self) -> bool:
        # A write that was under way may have made it longer again, but not given it a head.
        return os.pread(self._opened.map, 1, 0) in (b"", b"\0")

    async def claim(self, pieces: Sequence[int]) -> Sequence[int]:
        # Not in a thread: three calls a piece, of a small file that is in the page cache.
        ours: list[int] = []
        try:
            for piece in pieces:
                if not (self.done[piece] or self.left[piece]) and self._claim_one(piece):
                    ours.append(piece)
                    # Looked at after the claim: whoever had it before may have written it.
                    self._found(self._written(piece, piece + 1))
            for piece in [piece for piece in ours if self.left[piece]]:
                self._unclaim_one(piece)
        except OSError as error:
            await self.release(ours)
            raise store_error(self._place.url, f"claiming pieces of blob {self.id}", error) from error
        except StoreError:
            await self.release(ours)
            raise
        return [piece for piece in ours if not self.left[piece]]

    def _claim_one(self, piece: int) -> bool:
        return self._system.claim(self._opened.map, entry_at(piece), entry_at(piece) + ENTRY_BYTES)

    def _unclaim_one(self, piece: int) -> None:
        self._system.unclaim(self._opened.map, entry_at(piece), entry_at(piece) + ENTRY_BYTES)

    async def release(self, pieces: Sequence[int]) -> None:
        if self._closing is None:
            for piece in pieces:
                self._unclaim_one(piece)

    async def refresh(self) -> Set[int]:
        busy, written = await self._threads.run(f"looking at blob {self.id}", self._look)
        self._found(written)
        return busy

    def _look(self) -> tuple[frozenset[int], dict[int, int]]:
        start = entry_at(0)
        claimed = claimed_elsewhere(self._opened.map, start, self._map_size)
        busy = frozenset(
            piece
            for part in claimed
            for piece in range((part.start - start) // ENTRY_BYTES, -(-(part.stop - start) // ENTRY_BYTES))
        )
        return busy, self._written(0, len(self.done))

    async def recover(self, piece: int) -> bool:
        if self.left[piece]:
            doing = f"verifying piece {piece} of blob {self.id}"
            self.done[piece] = await self._threads.run(doing, lambda: self._is_intact(piece))
            self.left[piece] = False
        return self.done[piece]

    def _is_intact(self, piece: int) -> bool:
        if self._has_right_bytes(piece):
            return True
        # Only who has claimed a piece changes its entry; another process may be at it, or has mended it.
        if not self._claim_one(piece):
            return False
        try:
            if self._has_right_bytes(piece):
                return True
            write_all(self._system, self._opened.map, entry_bytes(None), entry_at(piece))
            return False
        finally:
            self._unclaim_one(piece)

    def _has_right_bytes(self, piece: int) -> bool:
        value = 0
        for chunk in _chunks(self._opened.part, piece_range(piece, self.size)):
            value = zlib.crc32(chunk, value)
        return value == self.crc32[piece]

    async def write(self, piece: int, data: bytes | bytearray | memoryview, crc32: int) -> None:
        place = piece_range(piece, self.size)
        doing = f"writing piece {piece} of blob {self.id}"
        if len(data) != len(place):
            raise StoreError(self._place.url, doing, f"{len(data)} bytes: expected {len(place)}")
        await self._threads.run(doing, lambda: self._write(piece, data, crc32))
        self.crc32[piece] = crc32
        self.left[piece] = False
        self.done[piece] = True

    def _write(self, piece: int, data: bytes | bytearray | memoryview, crc32: int) -> None:
        write_all(self._system, self._opened.part, data, piece * PIECE_BYTES)
        write_all(self._system, self._opened.map, entry_bytes(crc32), entry_at(piece))
        self._unclaim_one(piece)

    async def parts(self, wanted: ByteRange) -> AsyncIterator[FileSlice | bytes]:
        if len(wanted):
            yield FileSlice(self._opened.part, wanted.start, len(wanted))

    async def commit(self, sha256: str | None) -> None:
        doing = f"committing blob {self.id}"
        if not all(self.done):
            raise StoreError(self._place.url, doing, f"{self.done.count(False)} pieces are missing")
        await self._wait_to_commit(doing)
        try:
            await self._commit(doing, sha256)
        finally:
            if self._closing is None:
                self._system.unclaim(self._opened.map, COMMIT_BYTE, COMMIT_BYTE + 1)
        self._tell()

    async def _wait_to_commit(self, doing: str) -> None:
        try:
            while not self._system.claim(self._opened.map, COMMIT_BYTE, COMMIT_BYTE + 1):
                # Another process is hashing it, for minutes if it is large.
                await asyncio.sleep(self.poll_seconds)
                if self._closed:
                    raise StoreError(self._place.url, doing, os.strerror(errno.ECANCELED))
        except OSError as error:
            raise store_error(self._place.url, doing, error) from error

    async def _commit(self, doing: str, sha256: str | None) -> None:
        if sha256 is not None and await self._threads.run(doing, self._is_ours):
            found = await self._threads.run(doing, self._sha256)
            if found != sha256:
                await self._discard(for_all=True)
                raise IntegrityError(f"blob {self.id}", f"sha256 {sha256}", found)
        try:
            await self._threads.run(doing, self._make_durable)
        except StoreError:
            # Asked again, the system would say that all is well: what it could not write, it has forgotten.
            await self._discard(for_all=True)
            raise
        async with self._place.exclusion:
            await self._threads.finish(doing, self._publish)

    def _is_ours(self) -> bool:
        return is_named(self._opened.part, self._place.folders.part(self.id))

    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in _chunks(self._opened.part, ByteRange(0, self.size)):
            if self._closed:
                # Hashing all of a large file would hold up the end of the process.
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            digest.update(chunk)
        return digest.hexdigest()

    def _make_durable(self) -> None:
        self._system.sync(self._opened.part)

    def _publish(self) -> None:
        """Move the part to its blob, or see that another process has. Under the exclusion."""
        # A shared lock from here on, if it was not: readers of the blob may lock it too, evictors may not.
        self._system.lock(self._opened.part, shared=True)
        folders, target = self._place.folders, self._place.folders.blob(self.id)
        mapped = is_named(self._opened.map, folders.map(self.id))
        if self._is_ours():
            make_folder(self._system, target.parent)
            # Not earlier, so that whoever joins can open it for writing.
            self._system.chmod(self._opened.part, _BLOB_MODE)
            self._system.sync(self._opened.part)
            self._system.rename(folders.part(self.id), target)
        elif not is_named(self._opened.part, target) and (mapped or self._is_erased()):
            self.discarded = True
            reason = "another process has discarded it, or its file was removed"
            raise StoreError(self._place.url, f"committing blob {self.id}", reason)
        if mapped:
            # Also where another process renamed it and was killed before it came to this.
            self._end_publishing()
        self.committed = True

    def _end_publishing(self) -> None:
        folders, target = self._place.folders, self._place.folders.blob(self.id)
        try:
            self._system.sync_folder(target.parent)
        except OSError:
            self._system.truncate(self._opened.map, 0)
            self._system.unlink(target)
            self._system.unlink(folders.map(self.id))
            self.discarded = True
            raise
        with contextlib.suppress(OSError):
            # Without its part it is a leftover.
            self._system.unlink(folders.map(self.id))

    async def discard(self) -> None:
        await self._discard(for_all=False)

    async def _discard(self, *, for_all: bool) -> None:
        if not (self.committed or self.discarded or self._told):
            async with self._place.exclusion:
                await self._threads.finish(f"discarding blob {self.id}", lambda: self._erase(for_all))
        self._tell()

    def _erase(self, for_all: bool) -> None:
        if not for_all and not self._system.lock(self._opened.part):
            # Others go on with it, and have its lock still. Ours was lost with the question.
            self._system.lock(self._opened.part, shared=True)
            return
        folders = self._place.folders
        if not erase(self._system, folders, self.id, self._opened) and is_named(
            self._opened.part, folders.blob(self.id)
        ):
            # Another process has committed it, whose blob stays; readers of that may lock it too.
            self._system.lock(self._opened.part, shared=True)
            self.committed = True
        else:
            self.discarded = True

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._ended(self)

    async def close(self) -> None:
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # Shielded: a reader that is cancelled here must not leave the files open.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # A cancelled write goes on in its thread; a descriptor closed under it may soon be another file's.
        await self._threads.rest()
        self._opened.close()
        self._tell()
        self.space.let_go()


def _chunks(descriptor: int, wanted: ByteRange) -> Iterator[memoryview]:
    """Read a file through one buffer, which the next step overwrites."""
    buffer = memoryview(bytearray(min(_READ_BYTES, max(len(wanted), 1))))
    offset = wanted.start
    while offset < wanted.stop:
        count = os.preadv(descriptor, [buffer[: wanted.stop - offset]], offset)
        if count == 0:
            raise OSError(errno.EIO, f"file ends at {offset}")
        yield buffer[:count]
        offset += count
