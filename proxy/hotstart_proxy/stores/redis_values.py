"""Large values out of Redis, received into their final place: what redis-py would copy several times.

A connection here does one thing: it sends GET and receives a value whose length is known beforehand straight
from the socket into the buffer that the caller gets. Everything unusual (an error, a redirection to another
node, a connection that breaks) is ``Unread``, upon which the caller asks by redis-py, which knows what to
make of it. So nothing of Redis's ways has to be known twice.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, cast

from .redis_urls import RedisPlace

__all__ = ["Node", "RedisValues", "Unread"]

# Host and port; None is the place's Unix socket.
Node = tuple[str, int] | None
# An answer's first line: a length, or an error's text.
_MAX_LINE_BYTES: Final = 512
_END: Final = b"\r\n"


class Unread(Exception):
    """The value did not come, and redis-py is to be asked for it; never leaves the store."""


class _Connection(asyncio.BufferedProtocol):
    """One connection, for one question at a time.

    Attributes:
        lost: it is of no more use.
    """

    def __init__(self) -> None:
        self.lost = False
        self._ended = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._small = memoryview(bytearray(_MAX_LINE_BYTES))
        self._line = bytearray()
        self._length = 0
        self._answer: asyncio.Future[bytearray | None] | None = None
        # Of a value under way: where it goes, and how much of it is there; its line's end goes elsewhere.
        self._value: bytearray | None = None
        self._filled = 0

    async def ask(self, length: int, *arguments: bytes) -> bytearray | None:
        """Send a command; return its value, None where there is none of that length or only an OK.

        Raises:
            Unread: something else came, or nothing more does.
        """
        if self.lost or self._transport is None:
            raise Unread("the connection is gone")
        self._length = length
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(_command(*arguments))
        try:
            return await self._answer
        except BaseException:
            # An answer may still come, and would be taken for the next question's.
            self.abort()
            raise

    def abort(self) -> None:
        """End the connection at once; idempotent."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """End the connection, and wait until the loop has closed its socket."""
        self.abort()
        if self._transport is not None:
            await self._ended.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits for an answer gets none."""
        self.lost = True
        self._ended.set()
        self._end(Unread(str(exc or "the connection ended")))

    @property
    def _receives(self) -> bool:
        return self._value is not None and self._filled < self._length

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the place of the next bytes."""
        if self._value is not None and self._receives:
            return memoryview(self._value)[self._filled :]
        return self._small

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes that have come."""
        if self._receives:
            self._filled += nbytes
            return
        self._line += self._small[:nbytes]
        if self._value is None:
            line, end, rest = self._line.partition(_END)
            if end:
                self._begin(bytes(line), rest)
            elif len(self._line) >= _MAX_LINE_BYTES:
                self._fail("a line without an end came")
        if self._value is not None and not self._receives and len(self._line) >= len(_END):
            self._complete(self._value)

    def _begin(self, line: bytes, rest: bytearray) -> None:
        self._line = bytearray()
        if self._answer is None or self._answer.done():
            self._fail("an answer came to no question")
        elif line == f"${self._length}".encode("ascii"):
            self._value = bytearray(self._length)
            self._filled = min(len(rest), self._length)
            self._value[: self._filled] = rest[: self._filled]
            self._line = rest[self._filled :]
        elif line in (b"$-1", b"+OK") and not rest:
            self._end(None)
        elif line[:1] == b"$":
            # Not what was stored; it may be of any size, and is not worth receiving.
            self._end(None)
            self.abort()
        else:
            self._fail(line.decode("utf-8", "replace"))

    def _complete(self, value: bytearray) -> None:
        line, self._line, self._value = self._line, bytearray(), None
        if line == _END:
            self._end(value)
        else:
            self._fail("a value came without its end")

    def _fail(self, reason: str) -> None:
        self._end(Unread(reason))
        self.abort()

    def _end(self, answer: bytearray | Unread | None) -> None:
        future, self._answer = self._answer, None
        if future is None or future.done():
            return
        if isinstance(answer, Unread):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class RedisValues:
    """Connections to one Redis or the nodes of a cluster; as many at a time as the caller asks at once."""

    def __init__(self, place: RedisPlace, node_of: Callable[[str], Node]) -> None:
        """Prepare; nothing is connected before the first value is asked for.

        Args:
            place: where it is, and how to get in.
            node_of: where a key lies in a cluster; raises Unread if that is not known now.
        """
        self._place = place
        self._node_of = node_of
        self._tls = None if place.tls is None else _context(place.tls)
        self._idle: defaultdict[Node, list[_Connection]] = defaultdict(list)

    async def get(self, key: str, length: int) -> bytes | bytearray | None:
        """Return a value; None if there is none, or one of another length.

        Raises:
            Unread: it did not come.
        """
        node = self._node()
        if self._place.cluster:
            node = self._node_of(key)
        connection = self._take(node) or await self._connect(node)
        value = await connection.ask(length, b"GET", key.encode("utf-8"))
        if not connection.lost:
            self._idle[node].append(connection)
        return value

    def _node(self) -> Node:
        return None if self._place.unix is not None else self._place.nodes[0]

    def _take(self, node: Node) -> _Connection | None:
        idle = self._idle[node]
        while idle:
            connection = idle.pop()
            if not connection.lost:
                return connection
        return None

    async def _connect(self, node: Node) -> _Connection:
        connection = await self._dial(node)
        try:
            place = self._place
            if place.password is not None:
                names = [] if place.username is None else [place.username]
                await connection.ask(0, b"AUTH", *(text.encode("utf-8") for text in (*names, place.password)))
            if place.database:
                await connection.ask(0, b"SELECT", str(place.database).encode("ascii"))
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _dial(self, node: Node) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            if node is None:
                assert self._place.unix is not None
                _, connection = await loop.create_unix_connection(_Connection, self._place.unix)
            else:
                host, port = node
                _, connection = await loop.create_connection(_Connection, host, port, ssl=self._tls)
        except OSError as error:
            raise Unread(str(error)) from error
        return connection

    async def close(self) -> None:
        """End the connections that nobody uses."""
        idle, self._idle = self._idle, defaultdict(list)
        for connections in idle.values():
            for connection in connections:
                await connection.close()


def _command(*arguments: bytes) -> bytes:
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


def _context(options: Mapping[str, str | bool]) -> ssl.SSLContext:
    """Return what redis-py makes of the same options; what cannot be loaded is left for it to complain of."""
    context = ssl.create_default_context()
    with suppress(OSError):
        if options.get("ssl_ca_certs"):
            context.load_verify_locations(str(options["ssl_ca_certs"]))
        if options.get("ssl_certfile"):
            key = options.get("ssl_keyfile")
            context.load_cert_chain(str(options["ssl_certfile"]), None if key is None else str(key))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.check_hostname = bool(options.get("ssl_check_hostname", True))
    return context
