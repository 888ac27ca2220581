"""Passing bytes on from the origin without keeping them; readers of the same bytes share one read.

A shared read is a window over the origin's stream. Readers may join while all of it since its beginning is
still in the window, which is for the first 4 MiB. After that the window holds what the slowest reader still
lacks, within a bound: whoever falls further behind is let go, and goes on with a read of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Callable

from hotstart.wire.errors import HotstartError
from hotstart.wire.manifest import Representation
from hotstart.wire.pieces import PIECE_BYTES, piece_range
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.base import OriginError, OriginUnreachable
from hotstart_proxy.origins.models import ModelOrigin, VersionBlob
from hotstart_proxy.telemetry.load import Load

from .answers import CacheClosed
from .slots import Slots

__all__ = ["PassThrough"]

_JOIN_BYTES = PIECE_BYTES
_WINDOW_BYTES = 2 * PIECE_BYTES
# Of all shared reads together, so that many at once stay within the proxy's memory.
_ALL_WINDOWS_BYTES = 8 * PIECE_BYTES
# Reads of the origin at a time, of whatever is passed on: each holds what is on its way from the origin's
# socket to the reader's. The rest waits, the most urgent in front.
_READS = {Tier.WARMING: 16, Tier.BATCH: 16, Tier.STANDARD: 40, Tier.PREMIUM: 48}
_READ_BYTES = 1024 * 1024


class PassThrough:
    """All passing on of one cache."""

    def __init__(
        self, origin: ModelOrigin, observer: Observer, failed: Callable[[str, OriginError], None]
    ) -> None:
        """Begin with nothing under way.

        Args:
            origin: where bytes come from.
            observer: told how many.
            failed: told of every error of the origin, and of which model it was.
        """
        self._origin = origin
        self._observer = observer
        self._failed = failed
        # By what they read, those that were begun last; and all of them.
        self._shared: dict[tuple[str, ByteRange], _SharedRead] = {}
        self._all: set[_SharedRead] = set()
        self._windows = _Windows()
        self._slots = Slots(_READS)
        self._closed = False

    def load(self) -> Load:
        """Return what is in hand."""
        reserved_bytes = self._slots.held * _READ_BYTES + self._windows.bytes
        return Load(
            passes=self._slots.held, passes_waiting=self._slots.waiting, reserved_bytes=reserved_bytes
        )

    async def stream(self, blob: VersionBlob, wanted: ByteRange, tier: Tier) -> AsyncGenerator[bytes, None]:
        """Yield the wanted bytes in order, as they come.

        Raises (while iterating):
            OriginError, CacheClosed
            IntegrityError: a piece is damaged, of which the last bytes were not yielded.
        """
        if not len(wanted):
            return
        if self._closed:
            raise CacheClosed
        key = (blob.representation.id, wanted)
        shared = self._shared.get(key)
        if shared is None or not shared.joinable:
            shared = self._shared[key] = _SharedRead(
                lambda urgency: self._read(blob, wanted, urgency), self._windows
            )
            self._all.add(shared)
        reader = shared.join(tier)
        self._slots.review()
        position = wanted.start
        try:
            while position < wanted.stop and (chunk := await shared.next_chunk(reader)) is not None:
                position += len(chunk)
                yield chunk
        finally:
            shared.leave(reader)
            if not shared.readers:
                self._all.discard(shared)
                if self._shared.get(key) is shared:
                    del self._shared[key]
        if position < wanted.stop:
            rest = self._read(blob, ByteRange(position, wanted.stop), lambda: tier)
            async with contextlib.aclosing(rest) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _read(
        self, blob: VersionBlob, wanted: ByteRange, tier: Callable[[], Tier]
    ) -> AsyncGenerator[bytes, None]:
        left = len(wanted)
        check = _PieceCheck(blob.representation, wanted.start)
        try:
            async with self._slots.slot(tier), self._origin.get(blob, wanted, tier()) as chunks:
                async for chunk in chunks:
                    left -= len(chunk)
                    self._observer.origin_bytes(blob.model, len(chunk))
                    check.update(chunk)
                    yield chunk
            if left:
                raise OriginUnreachable(
                    self._origin.url, f"reading {blob.representation.path}", f"the body lacks {left} bytes"
                )
        except OriginError as error:
            self._failed(blob.model, error)
            raise

    async def close(self) -> None:
        """End all shared reads; whoever reads them, or comes later, gets CacheClosed."""
        self._closed = True
        ending = [shared.end() for shared in self._all]
        if ending:
            # All end whatever one of them raises, and also where the caller is cancelled.
            await asyncio.wait(ending)


class _PieceCheck:
    """Compares every piece that goes by as a whole with its digest, where there is one."""

    def __init__(self, representation: Representation, start: int) -> None:
        self._representation = representation
        self._position = start
        self._whole = start % PIECE_BYTES == 0
        self._crc32 = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            IntegrityError: a piece that ends in them is damaged.
        """
        pieces = self._representation.pieces
        view = memoryview(chunk)
        while view and pieces is not None:
            piece = self._position // PIECE_BYTES
            stop = piece_range(piece, self._representation.size).stop
            part = view[: stop - self._position]
            if not part:
                # More than was promised; whoever counts says so.
                return
            self._crc32 = zlib.crc32(part, self._crc32)
            self._position += len(part)
            view = view[len(part) :]
            if self._position == stop:
                if self._whole:
                    pieces.check_crc32(piece, self._crc32, self._representation.path)
                self._whole, self._crc32 = True, 0


class _Windows:
    """How many bytes all windows hold."""

    def __init__(self) -> None:
        self.bytes = 0

    @property
    def full(self) -> bool:
        return self.bytes > _ALL_WINDOWS_BYTES


class _Reader:
    """One reader's place: the number of the chunk it needs next. Let go where ``detached``."""

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.next_chunk = 0
        self.detached = False


class _SharedRead:
    """One read of the origin, by a task of its own, that steps on when a reader has had all there is."""

    def __init__(
        self, read: Callable[[Callable[[], Tier]], AsyncGenerator[bytes, None]], windows: _Windows
    ) -> None:
        """Begin; read is given where to ask for the tier of the most urgent reader."""
        self.joinable = True
        self.readers: set[_Reader] = set()
        self._source = read(self._tier)
        self._windows = windows
        self._chunks: deque[bytes] = deque()
        self._first_chunk = 0
        self._window_bytes = 0
        self._received_bytes = 0
        self._error: HotstartError | None = None
        self._ended = False
        self._hungry = asyncio.Event()
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._pump())

    def _tier(self) -> Tier:
        return max((reader.tier for reader in self.readers), default=Tier.WARMING)

    def join(self, tier: Tier) -> _Reader:
        """Take in a reader, at the beginning."""
        reader = _Reader(tier)
        self.readers.add(reader)
        return reader

    def leave(self, reader: _Reader) -> None:
        """Let a reader go; the read ends with its last."""
        self.readers.discard(reader)
        if self.readers:
            self._trim()
        else:
            self.joinable = False
            self._drop_window()
            self._task.cancel()

    async def next_chunk(self, reader: _Reader) -> bytes | None:
        """Return the next chunk, or None where the reader is to go on by itself or the stream has ended.

        Raises:
            OriginError, IntegrityError, CacheClosed
        """
        while True:
            if reader.detached:
                return None
            place = reader.next_chunk - self._first_chunk
            if place < len(self._chunks):
                chunk = self._chunks[place]
                reader.next_chunk += 1
                self._trim()
                return chunk
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._hungry.set()
            await self._news.wait()

    async def _pump(self) -> None:
        try:
            async with contextlib.aclosing(self._source) as chunks:
                async for chunk in chunks:
                    self._append(chunk)
                    self._tell()
                    self._hungry.clear()
                    await self._hungry.wait()
        except HotstartError as error:
            self._error = error
        finally:
            self._ended = True
            self.joinable = False
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _append(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._window_bytes += len(chunk)
        self._windows.bytes += len(chunk)
        self._received_bytes += len(chunk)
        if self._received_bytes >= _JOIN_BYTES or self._windows.full:
            self.joinable = False
        self._trim()
        bound = 0 if self._windows.full else _WINDOW_BYTES
        while self.readers and len(self._chunks) > 1 and self._window_bytes > bound:
            # Somebody had all there was and waits; the slowest must not make that one wait longer.
            for reader in list(self.readers):
                if reader.next_chunk == self._first_chunk:
                    reader.detached = True
                    self.readers.discard(reader)
            self._trim()

    def _trim(self) -> None:
        if self.joinable:
            return
        needed = min((reader.next_chunk for reader in self.readers), default=self._first_chunk)
        while self._chunks and self._first_chunk < needed:
            self._shrink()

    def _drop_window(self) -> None:
        while self._chunks:
            self._shrink()

    def _shrink(self) -> None:
        length = len(self._chunks.popleft())
        self._first_chunk += 1
        self._window_bytes -= length
        self._windows.bytes -= length

    def end(self) -> asyncio.Task[None]:
        """Begin to end the read, whose readers get CacheClosed; return the task to wait for."""
        self._error = CacheClosed()
        self._task.cancel()
        return self._task
