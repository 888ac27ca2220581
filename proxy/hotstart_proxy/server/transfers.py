"""One slice of a file onto a socket, sent by callbacks of the event loop as the socket takes it.

No task wakes up for every portion: a socket takes some hundred kilobytes at a time, and a future, a timer and
a switch of tasks for each of them cost several times what the kernel needs to send them.
"""

from __future__ import annotations

import asyncio
import os
import select

from hotstart.wire.errors import HotstartError
from hotstart_proxy.stores.base import FileSlice

from .turns import Turn

__all__ = ["FileTooShort", "FileTransfer", "ReaderStalled"]

# One unbounded call moves as much as the socket takes, and stalls everybody else for tens of milliseconds.
MAX_SENDFILE_BYTES = 1024 * 1024


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


class FileTransfer:
    """Sends one slice; await ``run`` once.

    Attributes:
        sent: bytes of the slice that the kernel has taken.
    """

    def __init__(self, part: FileSlice, turn: Turn | None, idle_seconds: float) -> None:
        """Prepare; nothing is sent yet.

        Args:
            part: not empty; its file stays open until the transfer is over.
            turn: asked before every portion; None where everything may be sent at once.
            idle_seconds: how long the client may read nothing.
        """
        self._part = part
        self._turn = turn
        self._idle_seconds = idle_seconds
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._socket = -1
        self._watched = False
        self._progress_at = 0.0
        self._idle: asyncio.TimerHandle | None = None
        self._paused: asyncio.TimerHandle | None = None
        self.sent = 0

    async def run(self, descriptor: int) -> None:
        """Send everything; a cancelled transfer sends nothing more.

        Args:
            descriptor: of a non-blocking socket that the loop does not know; left open.

        Raises:
            ConnectionError: the client is gone.
            ReaderStalled: it reads nothing for too long.
            FileTooShort: the file ends before the slice does.
        """
        self._socket = descriptor
        self._progress_at = self._loop.time()
        try:
            self._send()
            if not self._over.done():
                self._idle = self._loop.call_at(self._progress_at + self._idle_seconds, self._look)
                if self._paused is None:
                    self._watch()
            await self._over
        finally:
            for timer in (self._idle, self._paused):
                if timer is not None:
                    timer.cancel()
            self._unwatch()

    def _watch(self) -> None:
        self._watched = True
        self._loop.add_writer(self._socket, self._send)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_writer(self._socket)

    def _send(self) -> None:
        """Send one portion. Called again for as long as the socket has room."""
        over = self._over
        if over.done():
            return
        if self._turn is not None and (seconds := self._turn.claim()) > 0:
            self._pause(seconds)
            return
        left = self._part.length - self.sent
        asked = min(left, MAX_SENDFILE_BYTES)
        try:
            count = os.sendfile(self._socket, self._part.descriptor, self._part.offset + self.sent, asked)
        except BlockingIOError:
            count = -1
        except OSError as error:
            over.set_exception(error)
            return
        if count == 0:
            over.set_exception(FileTooShort(self._part.offset + self.sent, left))
            return
        if count > 0:
            self.sent += count
            self._progress_at = self._loop.time()
            if count == left:
                over.set_result(None)
                return
        # A full portion may have filled the socket as well, and then nobody calls back to find that out.
        if self._turn is not None and (count < asked or not _is_writable(self._socket)):
            self._turn.rest()

    def _pause(self, seconds: float) -> None:
        self._unwatch()
        self._paused = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._paused = None
        # It was not the client who let this time pass.
        self._progress_at = self._loop.time()
        self._send()
        if self._paused is None and not self._over.done():
            self._watch()

    def _look(self) -> None:
        """See whether the client reads: one timer for many portions."""
        if self._over.done():
            return
        now = self._loop.time()
        if self._paused is not None:
            self._progress_at = now
        due = self._progress_at + self._idle_seconds
        if now >= due:
            self._over.set_exception(ReaderStalled(self._idle_seconds))
        else:
            self._idle = self._loop.call_at(due, self._look)


def _is_writable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
