"""One request and what becomes of it: the record that handlers fill in, for headers, metrics and the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from aiohttp import web

from hotstart._version import __version__
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.cache.answers import Body, BodySource
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.stores.base import FileSlice

from .connections import Connection
from .problems import Form, Problem, native_form
from .sendfile import BodyWriter, FileTooShort
from .tiers import TIER_ANSWER
from .turns import Turns

__all__ = ["REDIRECT", "Exchange"]

# Beside the three sources of a body: where the bytes are fetched from instead of here.
REDIRECT = "redirect"

# Many clients give up after 10 s without an answer.
FIRST_PART_SECONDS = 5.0

# RFC 9211. A pass-through is forwarded and not stored; what a fill brings is.
_CACHE_STATUS = {
    BodySource.HIT: "hotstart; hit",
    BodySource.FILL: "hotstart; fwd=miss; stored",
    BodySource.PASSED_ON: "hotstart; fwd=miss",
}


class _Timed(AbstractContextManager[None]):
    """Takes the time between entering and leaving, into a list of others."""

    __slots__ = ("_before", "_name", "_timings")

    def __init__(self, name: str, timings: list[tuple[str, float]]) -> None:
        self._name = name
        self._timings = timings
        self._before = 0.0

    def __enter__(self) -> None:
        self._before = time.perf_counter()

    def __exit__(self, *exc_info: object) -> None:
        self._timings.append((self._name, time.perf_counter() - self._before))


class _BodyResponse(web.StreamResponse):
    """Leaves its head to the first bytes of the body, which go out in the same write if they are few."""

    _send_headers_immediately = False


@dataclass(slots=True)
class Exchange:
    """One request being answered.

    Attributes:
        turns: of everything that is sent on this listener.
        route: name of the matched route, or ``"none"``.
        tier: that it is served as.
        names_tier: the request named a tier, so the answer says which it got.
        status: of the answer; 0 until there is one.
        source: where a model's bytes came from, or ``"redirect"``; None where none were sent.
        model: the resolved model.
        version: the resolved version.
        wanted: the bytes that were asked for.
        sent_bytes: of the body.
        fault: what went wrong, for the log.
        first_byte_seconds: from arrival until a model's first part was sent.
        queue_seconds: that were waited for piece buffers; None where no fill had to do with it.
        response: the answer, once there is one.
        form: puts problems as the client's protocol does.
    """

    request: web.BaseRequest
    turns: Turns
    route: str = "none"
    tier: Tier = Tier.STANDARD
    names_tier: bool = False
    status: int = 0
    source: str | None = None
    model: str | None = None
    version: str | None = None
    wanted: ByteRange | None = None
    sent_bytes: int = 0
    fault: str | None = None
    first_byte_seconds: float | None = None
    queue_seconds: float | None = None
    response: web.StreamResponse | None = None
    form: Callable[[Problem], Form] = native_form
    _started: float = field(default_factory=time.perf_counter)
    _timings: list[tuple[str, float]] = field(default_factory=list)
    _headers: dict[str, str] | None = None

    @property
    def connection(self) -> Connection:
        """The connection that the request came on."""
        connection = self.request.protocol
        assert isinstance(connection, Connection)
        return connection

    @property
    def headers_sent(self) -> bool:
        """The answer has begun, so its status can no longer change."""
        return self.response is not None and self.response.prepared

    def headers(self) -> dict[str, str]:
        """Return the request's headers: names in lower case, repeated ones joined by commas (9110, 5.3)."""
        if self._headers is None:
            headers: dict[str, str] = {}
            for name, value in self.request.headers.items():
                name = name.lower()
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            self._headers = headers
        return self._headers

    def seconds(self) -> float:
        """Return the time since the request's head arrived."""
        return time.perf_counter() - self._started

    def timed(self, name: str) -> AbstractContextManager[None]:
        """Count the time within for Server-Timing."""
        return _Timed(name, self._timings)

    def respond(self, status: int, headers: dict[str, str], body: bytes = b"") -> web.StreamResponse:
        """Answer with a body that is in memory; to HEAD, only its headers go out."""
        self.status = status
        self.sent_bytes = len(body) if self.request.method != "HEAD" else 0
        self.response = web.Response(status=status, headers=self._complete(headers), body=body)
        return self.response

    def respond_head(self, status: int, headers: dict[str, str]) -> web.StreamResponse:
        """Answer with headers alone, among them the Content-Length of what a GET would get."""
        self.status = status
        self.response = web.StreamResponse(status=status, headers=self._complete(headers))
        return self.response

    def respond_problem(self, problem: Problem) -> web.StreamResponse:
        """Answer with a problem in the form of the client's protocol."""
        self.fault = f"{problem.code}: {problem.detail}"
        form = self.form(problem)
        return self.respond(form.status, form.headers, form.body)

    async def send(self, status: int, headers: dict[str, str], body: Body) -> web.StreamResponse:
        """Answer with a body from the cache, which is closed, whatever happens.

        The headers wait a while for the first bytes of a miss, so that an origin that fails at once is told
        by a status. What fails later leaves only cutting the connection.

        Raises:
            OriginError, StoreError, IntegrityError, ConnectionError, ReaderStalled, FileTooShort: before the
                headers have gone out, or after (``headers_sent``).
        """
        writer: BodyWriter | None = None
        parts = aiter(body.parts())
        first: asyncio.Task[FileSlice | bytes | None] | None = None
        try:
            if body.source is not BodySource.HIT:
                first = asyncio.create_task(_next(parts))
                await asyncio.wait({first}, timeout=FIRST_PART_SECONDS)
                if first.done():
                    first.result()
            self.source = str(body.source)
            self.status = status
            headers = {**headers, "Cache-Status": _CACHE_STATUS[body.source]}
            self.response = _BodyResponse(status=status, headers=self._complete(headers))
            await self.response.prepare(self.request)
            writer = BodyWriter(self.request, self.turns.of(self.tier))
            whole = body.whole()
            part = await self._first_part(parts, first) if whole is None else whole
            while part is not None:
                await writer.write(part)
                self.sent_bytes = writer.sent
                if self.first_byte_seconds is None:
                    self.first_byte_seconds = self.seconds()
                part = await _next(parts) if whole is None else None
            if writer.sent != body.length:
                raise FileTooShort(writer.sent, body.length - writer.sent)
            await self.response.write_eof()
            return self.response
        finally:
            self.queue_seconds = body.queue_seconds
            if writer is not None:
                self.sent_bytes = writer.sent
                writer.close()
            try:
                if first is not None:
                    # A body is closed only when nobody waits for its bytes any more.
                    first.cancel()
                    await asyncio.gather(first, return_exceptions=True)
            finally:
                # Also where the connection's end cancels this very cleaning up.
                await body.close()

    async def _first_part(
        self, parts: AsyncIterator[FileSlice | bytes], first: asyncio.Task[FileSlice | bytes | None] | None
    ) -> FileSlice | bytes | None:
        """Wait for the first bytes, which take the headers with them; the headers do not wait for long."""
        if first is not None:
            if not first.done():
                self._send_head()
            return await first
        patience = asyncio.get_running_loop().call_later(FIRST_PART_SECONDS, self._send_head)
        try:
            return await _next(parts)
        finally:
            patience.cancel()

    def _send_head(self) -> None:
        # A ConnectionError: the client is gone, and whoever waits for the bytes is about to be told.
        with suppress(ConnectionError):
            self.request.writer.send_headers()

    def _complete(self, headers: dict[str, str]) -> dict[str, str]:
        timings = ", ".join(f"{name};dur={seconds * 1000:.3g}" for name, seconds in self._timings)
        return {
            **headers,
            **({"Server-Timing": timings} if timings else {}),
            **({TIER_ANSWER: self.tier.name.lower()} if self.names_tier else {}),
            "X-Content-Type-Options": "nosniff",
            "Server": f"hotstart/{__version__}",
        }


async def _next(parts: AsyncIterator[FileSlice | bytes]) -> FileSlice | bytes | None:
    return await anext(parts, None)
