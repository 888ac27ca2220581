"""A partial blob on disk: ``fills/<id>.part`` at its full size, and the ``.map`` that says what is in it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hotstart.wire.errors import FormatError, IntegrityError
from hotstart.wire.pieces import PIECE_BYTES, Pieces, piece_count, piece_range
from hotstart.wire.ranges import ByteRange

from .base import BlobBusy, FileSlice, NoSpaceNow, PartialBlob, StoreError
from .fillmap import FillMap, entry_at, entry_bytes, new_map
from .folders import Folders, lock_file, make_folder, sync_folder, write_all
from .ledger import Space

__all__ = ["DiskPartial", "OpenPart", "open_part", "store_error"]

T = TypeVar("T")
_BLOB_MODE = 0o444
_PART_MODE = 0o644
_READ_BYTES = 1024 * 1024


def store_error(store: str, doing: str, error: OSError) -> StoreError:
    """Return the store's error for one of the operating system's."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceNow(store, doing, f"{reason}: lower the budget, or make room on the filesystem")
    return StoreError(store, doing, reason)


@dataclass(frozen=True, slots=True)
class OpenPart:
    """A ``.part`` and its ``.map``, open, locked and as long as they will be.

    Attributes:
        part: descriptor, whose lock says that somebody fills it.
        map: descriptor.
        crc32: per piece the value with which an earlier fill verified it, or None.
    """

    part: int
    map: int
    crc32: list[int | None]

    def close(self) -> None:
        """Close both files; the lock goes with them."""
        os.close(self.part)
        os.close(self.map)


def open_part(folders: Folders, store: str, content_id: str, size: int, pieces: Pieces | None) -> OpenPart:
    """Create or take up a partial blob (blocking); pieces with other digests than announced are dropped.

    Raises:
        BlobBusy: another process fills it.
        OSError: the system's; what was created is gone again.
    """
    path = folders.part(content_id)
    part = _open_locked(path, store, content_id)
    try:
        known = _read_map(folders.map(content_id), content_id, size)
        if known is None:
            os.ftruncate(part, 0)
        if size:
            _reserve(part, size)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        filled = os.open(folders.map(content_id), flags, _PART_MODE)
        try:
            if known is None:
                os.ftruncate(filled, 0)
                write_all(filled, new_map(content_id, size), 0)
                return OpenPart(part, filled, [None] * piece_count(size))
            return OpenPart(part, filled, _still_wanted(filled, known, pieces))
        except BaseException:
            os.close(filled)
            raise
    except BaseException:
        path.unlink(missing_ok=True)
        folders.map(content_id).unlink(missing_ok=True)
        os.close(part)
        raise


def _reserve(part: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(part, 0, size)
    else:
        # macOS, for development: a full disk is met at a write instead.
        os.ftruncate(part, size)


def _open_locked(path: Path, store: str, content_id: str) -> int:
    while True:
        part = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PART_MODE)
        if not lock_file(part):
            os.close(part)
            raise BlobBusy(store, f"filling blob {content_id}", "another process is filling it")
        # Between opening and locking, another process may have committed or dropped the file of this name.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(part), path.stat()):
                return part
        os.close(part)


def _read_map(path: Path, content_id: str, size: int) -> FillMap | None:
    try:
        known = FillMap.parse(path.read_bytes())
    except (FileNotFoundError, FormatError):
        return None
    return known if (known.id, known.size) == (content_id, size) else None


def _still_wanted(filled: int, known: FillMap, pieces: Pieces | None) -> list[int | None]:
    wanted = list(known.crc32)
    for piece, value in enumerate(known.crc32):
        if value is not None and pieces is not None and pieces.crc32[piece] != value:
            write_all(filled, entry_bytes(None), entry_at(piece))
            wanted[piece] = None
    return wanted


def _crc32_of(descriptor: int, wanted: ByteRange) -> int:
    value = 0
    for chunk in _chunks(descriptor, wanted):
        value = zlib.crc32(chunk, value)
    return value


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


class DiskPartial(PartialBlob):
    """One fill's file. Writes and the commit run in threads; nothing is closed under them."""

    poll_seconds = 0.025

    def __init__(
        self,
        folders: Folders,
        store: str,
        content_id: str,
        size: int,
        opened: OpenPart,
        space: Space,
        ended: Callable[[DiskPartial], None],
    ) -> None:
        """Take over an open part.

        Args:
            folders: of the store.
            store: its URL.
            content_id: the blob's.
            size: bytes.
            opened: closed by us.
            space: held by the caller on our behalf; let go by us.
            ended: called once on the event loop when the name of the part is free again: after commit
                (``committed`` is true), discard (``discarded``), or else close.
        """
        self.id = content_id
        self.size = size
        self.done: list[bool] = [False] * len(opened.crc32)
        self.left: list[bool] = [value is not None for value in opened.crc32]
        self.crc32: list[int] = [value or 0 for value in opened.crc32]
        self.space = space
        self.committed = False
        self.discarded = False
        self._folders = folders
        self._store = store
        self._opened = opened
        self._ended = ended
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._told = False
        self._running: set[asyncio.Future[Any]] = set()

    async def claim(self, pieces: Sequence[int]) -> Sequence[int]:
        return [piece for piece in pieces if not (self.done[piece] or self.left[piece])]

    async def release(self, pieces: Sequence[int]) -> None:
        """Give nothing back: nobody else fills this blob."""

    async def refresh(self) -> Set[int]:
        return frozenset()

    async def recover(self, piece: int) -> bool:
        if self.left[piece]:
            doing = f"verifying piece {piece} of blob {self.id}"
            self.done[piece] = await self._run(doing, lambda: self._is_intact(piece))
            self.left[piece] = False
        return self.done[piece]

    def _is_intact(self, piece: int) -> bool:
        if _crc32_of(self._opened.part, piece_range(piece, self.size)) == self.crc32[piece]:
            return True
        write_all(self._opened.map, entry_bytes(None), entry_at(piece))
        return False

    async def write(self, piece: int, data: bytes | bytearray | memoryview, crc32: int) -> None:
        place = piece_range(piece, self.size)
        if len(data) != len(place):
            raise StoreError(
                self._store,
                f"writing piece {piece} of blob {self.id}",
                f"{len(data)} bytes: expected {len(place)}",
            )
        await self._run(f"writing piece {piece} of blob {self.id}", lambda: self._write(piece, data, crc32))
        self.crc32[piece] = crc32
        self.left[piece] = False
        self.done[piece] = True

    def _write(self, piece: int, data: bytes | bytearray | memoryview, crc32: int) -> None:
        write_all(self._opened.part, data, piece * PIECE_BYTES)
        write_all(self._opened.map, entry_bytes(crc32), entry_at(piece))

    async def parts(self, wanted: ByteRange) -> AsyncIterator[FileSlice | bytes]:
        if len(wanted):
            yield FileSlice(self._opened.part, wanted.start, len(wanted))

    async def commit(self, sha256: str | None) -> None:
        doing = f"committing blob {self.id}"
        if not all(self.done):
            raise StoreError(self._store, doing, f"{self.done.count(False)} pieces are missing")
        if sha256 is not None:
            found = await self._run(doing, self._sha256)
            if found != sha256:
                await self.discard()
                raise IntegrityError(f"blob {self.id}", f"sha256 {sha256}", found)
        await self._run(doing, self._commit)
        self._tell()

    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in _chunks(self._opened.part, ByteRange(0, self.size)):
            if self._closed:
                # Hashing all of a large file would hold up the end of the process.
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            digest.update(chunk)
        return digest.hexdigest()

    def _commit(self) -> None:
        part = self._opened.part
        os.fchmod(part, _BLOB_MODE)
        os.fsync(part)
        # A shared lock from here on: readers of the blob may lock it too, evictors and fillers may not.
        lock_file(part, shared=True)
        target = self._folders.blob(self.id)
        if make_folder(target.parent):
            sync_folder(self._folders.blobs)
        self._folders.part(self.id).rename(target)
        try:
            sync_folder(target.parent)
        except OSError:
            target.unlink(missing_ok=True)
            self._folders.map(self.id).unlink(missing_ok=True)
            self.discarded = True
            raise
        self.committed = True
        self._folders.map(self.id).unlink(missing_ok=True)

    async def discard(self) -> None:
        if self.committed or self.discarded:
            return
        await self._run(f"discarding blob {self.id}", self._unlink)
        self._tell()

    def _unlink(self) -> None:
        # The map first: a part without one is a leftover.
        self._folders.map(self.id).unlink(missing_ok=True)
        self._folders.part(self.id).unlink(missing_ok=True)
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
        while self._running:
            await asyncio.wait(self._running)
        self._opened.close()
        self._tell()
        self.space.let_go()

    def _ran(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        if not future.cancelled():
            # Whoever waited may have been cancelled; nobody is to complain of what nobody asks for.
            future.exception()

    async def _run(self, doing: str, work: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(None, work)
        self._running.add(future)
        future.add_done_callback(self._ran)
        try:
            return await asyncio.shield(future)
        except OSError as error:
            raise store_error(self._store, doing, error) from error
