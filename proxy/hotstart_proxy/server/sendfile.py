"""The data plane: the bytes of an answer's body onto a connection.

uvloop has no ``loop.sendfile``, and aiohttp's stand-in reads through a thread pool. So slices of files go out
by ``os.sendfile`` on a duplicate of the socket's descriptor: the headers first, until the transport holds
nothing back; then at most 1 MiB a call and a turn for everybody else (``transfers``), with ``add_writer`` on
the duplicate for as long as the slice lasts (the loop owns the original); the duplicate is closed at the end.
Chunks of bytes go through the transport, and so do slices of the size of a chunk, in one write with the
headers: for those a copy is cheaper than another call and another packet.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable

from aiohttp import web
from aiohttp.http import StreamWriter

from hotstart_proxy.stores.base import FileSlice

from .connections import Connection, ConnectionLost
from .transfers import FileTooShort, FileTransfer, ReaderStalled
from .turns import Turn

__all__ = ["IDLE_SECONDS", "BodyWriter", "FileTooShort", "ReaderStalled"]

# Up to here a slice costs less to copy than to send by itself.
MAX_COPIED_BYTES = 64 * 1024
# What is read of a file at a time where it cannot be sent from there.
MAX_READ_BYTES = 1024 * 1024
# Also the unit in which a slow reader proves that it still reads.
MAX_WRITE_BYTES = 256 * 1024
IDLE_SECONDS = 60.0


class BodyWriter:
    """Writes one body after its headers. Close it, whatever happens."""

    def __init__(
        self, request: web.BaseRequest, turn: Turn | None = None, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        """Take a request whose response is prepared.

        Args:
            request: on a ``Connection``.
            turn: asked before every portion; None where everything may be sent at once.
            idle_seconds: how long the client may read nothing.
        """
        connection, writer = request.protocol, request.writer
        assert isinstance(connection, Connection)
        assert isinstance(writer, StreamWriter)
        self._connection = connection
        self._writer = writer
        self._turn = turn
        self._idle_seconds = idle_seconds
        self._duplicate: int | None = None
        self._sent = 0
        self._transfer: FileTransfer | None = None

    @property
    def sent(self) -> int:
        """Return how many bytes of the body the kernel or the transport has."""
        return self._sent + (0 if self._transfer is None else self._transfer.sent)

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

    def _rest(self) -> None:
        if self._turn is not None:
            self._turn.rest()

    async def _write_bytes(self, data: bytes) -> None:
        if len(data) <= MAX_COPIED_BYTES:
            await self._write_at_once(data)
            return
        view = memoryview(data)
        while view:
            chunk, view = view[:MAX_WRITE_BYTES], view[MAX_WRITE_BYTES:]
            if self._turn is not None:
                await self._turn.take()
            # The transport takes the chunk at once; what is waited for is room for the next.
            self._rest()
            await self._within_idle_time(self._writer.write(chunk))
            self._sent += len(chunk)

    async def _write_at_once(self, data: bytes) -> None:
        if self._turn is not None:
            await self._turn.take()
        await self._writer.write(data, drain=False)
        self._sent += len(data)
        self._rest()
        await self._flush()

    async def _write_slice(self, part: FileSlice) -> None:
        if part.length <= MAX_COPIED_BYTES:
            await self._write_slice_through_memory(part)
            return
        descriptor = self._connection.raw_socket()
        if descriptor is None:
            await self._write_slice_through_memory(part)
            return
        self._writer.send_headers()
        await self._flush()
        if self._duplicate is None:
            descriptor = self._connection.raw_socket()
            assert descriptor is not None
            self._duplicate = os.dup(descriptor)
        self._transfer = FileTransfer(part, self._turn, self._idle_seconds)
        try:
            await self._transfer.run(self._duplicate)
        finally:
            self._sent, self._transfer = self.sent, None

    async def _write_slice_through_memory(self, part: FileSlice) -> None:
        left = part
        while left.length:
            # Of so few bytes a thread would cost more than the reading, which sendfile does here as well.
            small = left.length <= MAX_COPIED_BYTES
            data = _read(left) if small else await asyncio.to_thread(_read, left)
            await self._write_bytes(data)
            left = FileSlice(left.descriptor, left.offset + len(data), left.length - len(data))

    async def _flush(self) -> None:
        """Wait until the transport holds nothing back."""
        if self._held_back() == 0:
            return
        # uvloop writes at the end of its turn, mostly everything.
        await asyncio.sleep(0)
        if self._held_back() == 0:
            return
        transport = self._connection.transport
        assert transport is not None
        # With a limit of zero the protocol is paused until the buffer is empty: what drain waits for.
        transport.set_write_buffer_limits(high=0)
        try:
            await self._within_idle_time(self._writer.drain())
        finally:
            # Of a transport that has been closed meanwhile they cannot be set.
            if not transport.is_closing():
                transport.set_write_buffer_limits()

    def _held_back(self) -> int:
        transport = self._connection.transport
        if transport is None:
            raise ConnectionLost("the client is gone")
        return transport.get_write_buffer_size()

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


def _read(part: FileSlice) -> bytes:
    data = os.pread(part.descriptor, min(part.length, MAX_READ_BYTES), part.offset)
    if not data:
        raise FileTooShort(part.offset, part.length)
    return data
