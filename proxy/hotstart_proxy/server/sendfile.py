"""The data plane: the bytes of an answer's body onto a connection.

uvloop has no ``loop.sendfile``, and aiohttp's stand-in reads through a thread pool. So slices of files go out
by ``os.sendfile`` on a duplicate of the socket's descriptor: the headers first, until the transport holds
nothing back; then at most 1 MiB a call and a turn for everybody else, since one unbounded call moves as much
as the socket takes and stalls probes for tens of milliseconds; ``add_writer`` on the duplicate when the
socket is full (the loop owns the original); the duplicate is closed at the end. Chunks of bytes go through
the transport.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable

from aiohttp import web

from hotstart.wire.errors import HotstartError
from hotstart_proxy.stores.base import FileSlice

from .connections import Connection, ConnectionLost
from .turns import Turn

__all__ = ["IDLE_SECONDS", "BodyWriter", "FileTooShort", "ReaderStalled"]

MAX_SENDFILE_BYTES = 1024 * 1024
# Also the unit in which a slow reader proves that it still reads.
MAX_WRITE_BYTES = 256 * 1024
IDLE_SECONDS = 60.0


class ReaderStalled(HotstartError):
    """The client has read nothing for the whole idle time-out."""

    def __init__(self, idle_seconds: float) -> None:
        self.idle_seconds = idle_seconds
        super().__init__(f"the client has read nothing for {idle_seconds:g} s")


class FileTooShort(HotstartError):
    """A file ends before the slice that was to be sent."""

    def __init__(self, offset: int, missing: int) -> None:
        self.offset = offset
        self.missing = missing
        super().__init__(f"a stored file ends at byte {offset}, {missing} bytes before the end of the answer")


class BodyWriter:
    """Writes one body after its headers. Close it, whatever happens.

    Attributes:
        sent: bytes of the body handed to the kernel or the transport.
    """

    def __init__(
        self, request: web.BaseRequest, turn: Turn | None = None, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        """Take a request whose response is prepared.

        Args:
            request: on a ``Connection``.
            turn: asked before every portion; None where everything may be sent at once.
            idle_seconds: how long the client may read nothing.
        """
        connection = request.protocol
        assert isinstance(connection, Connection)
        self._connection = connection
        self._writer = request.writer
        self._turn = turn
        self._idle_seconds = idle_seconds
        self._loop = asyncio.get_running_loop()
        self._duplicate: int | None = None
        self.sent = 0

    async def write(self, part: FileSlice | bytes) -> None:
        """Send one part; returns when the kernel or the transport has all of it.

        Raises:
            ConnectionError: the client is gone.
            ReaderStalled: it reads nothing for too long.
            FileTooShort: the file ends before the slice does.
        """
        try:
            if isinstance(part, FileSlice):
                await self._write_slice(part)
            else:
                await self._write_bytes(part)
        finally:
            self._rest()

    async def _take_turn(self) -> None:
        if self._turn is not None:
            await self._turn.take()

    def _rest(self) -> None:
        if self._turn is not None:
            self._turn.rest()

    async def _write_bytes(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            chunk, view = view[:MAX_WRITE_BYTES], view[MAX_WRITE_BYTES:]
            await self._take_turn()
            # The transport takes the chunk at once; what is waited for is room for the next.
            self._rest()
            await self._within_idle_time(self._writer.write(chunk))
            self.sent += len(chunk)

    async def _write_slice(self, part: FileSlice) -> None:
        descriptor = self._connection.raw_socket()
        if descriptor is None:
            await self._write_slice_through_memory(part)
            return
        await self._flush()
        if self._duplicate is None:
            descriptor = self._connection.raw_socket()
            assert descriptor is not None
            self._duplicate = os.dup(descriptor)
        offset, left = part.offset, part.length
        while left:
            if self._turn is not None:
                await self._turn.take()
            try:
                count = os.sendfile(self._duplicate, part.descriptor, offset, min(left, MAX_SENDFILE_BYTES))
            except BlockingIOError:
                self._rest()
                await self._until_writable(self._duplicate)
                continue
            if count == 0:
                raise FileTooShort(offset, left)
            offset += count
            left -= count
            self.sent += count
            await asyncio.sleep(0)

    async def _write_slice_through_memory(self, part: FileSlice) -> None:
        offset, left = part.offset, part.length
        while left:
            count = min(left, MAX_SENDFILE_BYTES)
            data = await asyncio.to_thread(os.pread, part.descriptor, count, offset)
            if not data:
                raise FileTooShort(offset, left)
            await self._write_bytes(data)
            offset += len(data)
            left -= len(data)

    async def _flush(self) -> None:
        transport = self._connection.transport
        if transport is None:
            raise ConnectionLost("the client is gone")
        if transport.get_write_buffer_size() == 0:
            return
        # With a limit of zero the protocol is paused until the buffer is empty: what drain waits for.
        transport.set_write_buffer_limits(high=0)
        try:
            await self._within_idle_time(self._writer.drain())
        finally:
            transport.set_write_buffer_limits()

    async def _until_writable(self, descriptor: int) -> None:
        ready = self._loop.create_future()
        self._loop.add_writer(descriptor, _wake, ready)
        try:
            await self._within_idle_time(ready)
        finally:
            self._loop.remove_writer(descriptor)

    async def _within_idle_time(self, progress: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(self._idle_seconds):
                await progress
        except TimeoutError as error:
            raise ReaderStalled(self._idle_seconds) from error

    def close(self) -> None:
        """Let go of the duplicate; idempotent."""
        if self._duplicate is not None:
            os.close(self._duplicate)
            self._duplicate = None


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
