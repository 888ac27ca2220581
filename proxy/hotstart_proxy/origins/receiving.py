"""Bodies received by threads, straight into the caller's memory: for fills, which move gigabytes.

An event loop copies what arrives three times before a piece is whole, and TLS doubles that, all in the one
thread that everything else waits for. A thread that waits in ``recv`` holds no lock of the interpreter and
copies once. What is decided stays in the loop: it hears of a piece when all of it is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hotstart.sources.endpoints import Endpoint
from hotstart.sources.http import Connection, Response

__all__ = ["Answer", "Receiver"]

# More than there are piece buffers: whoever has one never waits for a thread.
_THREADS = 32
# A slow body is reported on as often, so that whoever counts patience sees that it goes on.
_REPORT_SECONDS = 0.1
# As long as aiohttp keeps one. Servers keep theirs for longer, or end them, which is noticed.
_KEEP_SECONDS = 15.0

T = TypeVar("T")


class Receiver:
    """The threads, and the connections to one server that wait to be used again.

    Of one event loop, in which all its methods are called.
    """

    def __init__(self, endpoint: Endpoint, name: str, idle_seconds: float) -> None:
        """Begin with no thread and no connection.

        Args:
            endpoint: where to connect.
            name: of the origin, for errors.
            idle_seconds: the longest wait for the next bytes.
        """
        self.endpoint = endpoint
        self._name = name
        self._idle_seconds = idle_seconds
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="receive")
        # The one used last is at the end, and used first.
        self._kept: list[tuple[float, Connection]] = []
        self._used: set[Connection] = set()
        self._prune_timer: asyncio.TimerHandle | None = None

    async def ask(self, target: str, headers: Mapping[str, str], doing: str) -> Answer:
        """Send a GET; return when the answer's head is here, whatever it says.

        A cancelled caller is let go at once.

        Raises:
            SourceError: no connection, no answer in time, or no HTTP.
        """
        connection = (
            self._kept.pop()[1]
            if self._kept
            else Connection(self.endpoint, self._name, idle_seconds=self._idle_seconds)
        )
        self._used.add(connection)
        future = self.run(lambda: connection.request("GET", target, headers, doing=doing))
        try:
            return Answer(self, connection, await asyncio.shield(future))
        except BaseException:
            connection.close()
            self._used.discard(connection)
            # One that is closed while it connects has its socket closed by its thread, when that returns.
            future.add_done_callback(lambda done: _drop(done, connection))
            raise

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have a thread do something."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def ended(self, connection: Connection, *, keep: bool) -> None:
        """Take a connection back, to be used again if its answer was read to the end."""
        self._used.discard(connection)
        if not keep:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._kept.append((loop.time(), connection))
        if self._prune_timer is None:
            self._prune_timer = loop.call_later(_KEEP_SECONDS, self._prune)

    def _prune(self) -> None:
        loop = asyncio.get_running_loop()
        self._prune_timer = None
        while self._kept and self._kept[0][0] + _KEEP_SECONDS <= loop.time():
            self._kept.pop(0)[1].close()
        if self._kept:
            self._prune_timer = loop.call_at(self._kept[0][0] + _KEEP_SECONDS, self._prune)

    async def close(self) -> None:
        """End what is going on, close all connections, and wait for the threads."""
        if self._prune_timer is not None:
            self._prune_timer.cancel()
        for connection in [*self._used, *(kept for _, kept in self._kept)]:
            connection.close()
        self._kept.clear()
        await asyncio.to_thread(self._threads.shutdown)


class Answer:
    """An answer's head, and its body to be received once.

    Attributes:
        status: HTTP status.
        headers: names in lower case.
        length: of the body; None where the answer does not say.
    """

    def __init__(self, receiver: Receiver, connection: Connection, response: Response) -> None:
        self.status = response.status
        self.headers = response.headers()
        self.length = response.length if response.has_length else None
        self._receiver = receiver
        self._connection = connection
        self._response = response
        self._received = 0
        self._is_closed = False

    async def receive(self, buffer: memoryview, arrived: Callable[[int], None]) -> None:
        """Receive into a buffer until it is full, or something has come and it is time to report.

        When this ends, whatever way, no thread touches the buffer any more.

        Args:
            buffer: not empty, no longer than what is left of the body.
            arrived: told how many bytes lie in the buffer by now, also before an error is raised.

        Raises:
            SourceError: cut short, or silent for too long.
        """
        counter = _Counter()
        future = self._receiver.run(lambda: self._receive(buffer, counter))
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            self._connection.close()
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            # Looked at, so that nobody complains of an error that was never retrieved: the cancel wins.
            future.exception()
            raise
        finally:
            self._received += counter.bytes
            arrived(counter.bytes)

    def _receive(self, buffer: memoryview, counter: _Counter) -> None:
        report_at = time.monotonic() + _REPORT_SECONDS
        while counter.bytes < len(buffer):
            count = self._response.readinto(buffer[counter.bytes :])
            if not count:
                return
            counter.bytes += count
            if time.monotonic() >= report_at:
                return

    async def read(self, limit: int) -> bytes:
        """Read a short body whole.

        Raises:
            SourceError: it is longer than limit, or as receive.
        """
        future = self._receiver.run(lambda: self._response.read(limit))
        try:
            data = await asyncio.shield(future)
        except BaseException:
            self._connection.close()
            future.add_done_callback(lambda done: done.exception())
            raise
        self._received += len(data)
        return data

    def close(self) -> None:
        """Let go of the connection. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            # Does not block: nobody receives any more.
            whole = self._received == self.length and not self._connection.is_closed
            if whole:
                self._response.close()
            self._receiver.ended(self._connection, keep=whole)


class _Counter:
    """How many bytes have arrived, told by the thread that receives as it goes."""

    def __init__(self) -> None:
        self.bytes = 0


def _drop(done: asyncio.Future[Response], connection: Connection) -> None:
    if done.cancelled() or done.exception() is None:
        connection.close()
