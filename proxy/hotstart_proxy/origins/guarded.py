"""An origin behind circuit breakers: after repeated failure it is not asked by everybody, but by a probe.

There are two. A document (index, manifest, listing) that arrives says nothing of an origin whose large
objects stall, so files have a circuit of their own; but where documents fail files are not asked for either,
and a file that arrives speaks for all.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TypeAlias, TypeVar

from hotstart.wire.catalog import KnownIndex
from hotstart.wire.errors import FormatError
from hotstart.wire.opening import Fallback
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.core.breaker import Breaker, BreakerSettings, Circuit, Phase
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.telemetry.logs import log_event

from .base import ObjectChanged, OriginBusy, OriginDenied, OriginError, OriginPaused, OriginUnreachable
from .models import ModelOrigin, VersionBlob

__all__ = ["GuardedOrigin"]

_log = logging.getLogger("hotstart_proxy.origins")
# As many bytes of a file show that files can be had: a stream of gigabytes is not waited for.
_PROOF_BYTES = 1024 * 1024

T = TypeVar("T")
Chunk = TypeVar("Chunk", bytes, bytes | memoryview)
_Tickets: TypeAlias = tuple[tuple[Breaker, int], ...]


class GuardedOrigin(ModelOrigin):
    """Passes everything on, and leaves the origin alone while it is down.

    What the origin answers, a refusal included, is a success to the breaker; only ``OriginUnreachable`` is a
    failure. While its circuit is open a request ends at once with ``OriginPaused``. Requests for bytes that
    come while the probe is under way wait for what it shows, since the probe is most often a part of the same
    fill. Pre-signing asks nobody, and is not guarded.
    """

    def __init__(
        self,
        origin: ModelOrigin,
        observer: Observer,
        settings: BreakerSettings | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put breakers before an origin.

        Args:
            origin: entered and left with this one.
            observer: told of errors, and when the first circuit opens and the last one closes.
            settings: None means the defaults.
            now: seconds, of a clock that never goes back.
        """
        self.url = origin.url
        self.can_presign = origin.can_presign
        self._origin = origin
        self._observer = observer
        self._now = now
        self._documents = Breaker(settings or BreakerSettings(), random.random)
        self._files = Breaker(settings or BreakerSettings(), random.random)
        self._is_open = False
        # Set, and replaced, whenever a probe has ended.
        self._shown = asyncio.Event()

    async def __aenter__(self) -> GuardedOrigin:
        await self._origin.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._origin.__aexit__(*exc_info)

    async def models(self) -> tuple[str, ...]:
        return await self._document("listing the models", self._origin.models)

    async def index(self, model: str, now_ms: int, known: KnownIndex | None) -> KnownIndex | None:
        return await self._document(
            f"reading the index of {model}", lambda: self._origin.index(model, now_ms, known)
        )

    async def manifest(self, model: str, version: str, now_ms: int) -> bytes | None:
        return await self._document(
            f"reading the manifest of {model}@{version}",
            lambda: self._origin.manifest(model, version, now_ms),
        )

    async def presign(self, blobs: Sequence[VersionBlob], expires_in_seconds: int) -> Fallback | None:
        return await self._origin.presign(blobs, expires_in_seconds)

    def circuit(self, blob: VersionBlob, wanted: ByteRange) -> Circuit:
        circuit = self._circuit()
        return self._origin.circuit(blob, wanted) if circuit.phase is Phase.CLOSED else circuit

    def _circuit(self) -> Circuit:
        """Return how a request for a file would fare."""
        now = self._now()
        circuits = (self._files.circuit(now), self._documents.circuit(now))
        return max(
            circuits, key=lambda item: (item.refuses, item.phase is Phase.DUE, item.retry_after_seconds)
        )

    async def _document(self, doing: str, ask: Callable[[], Awaitable[T]]) -> T:
        ticket = self._documents.admit(self._now())
        if ticket is None:
            raise self._paused(doing, self._documents.circuit(self._now()))
        with _Judgement(self, ((self._documents, ticket),)) as judgement:
            answer = await ask()
            judgement.succeeded()
            return answer

    @asynccontextmanager
    async def get(
        self, blob: VersionBlob, wanted: ByteRange, tier: Tier = Tier.STANDARD
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        tickets = await self._admit(f"reading {blob.representation.path} of {blob.model}@{blob.version}")
        with _Judgement(self, tickets) as judgement:
            async with self._origin.get(blob, wanted, tier) as chunks:
                yield _watched(judgement, chunks)

    @asynccontextmanager
    async def receive(
        self, blob: VersionBlob, wanted: ByteRange, buffer: memoryview, tier: Tier = Tier.STANDARD
    ) -> AsyncIterator[AsyncIterator[bytes | memoryview]]:
        tickets = await self._admit(f"reading {blob.representation.path} of {blob.model}@{blob.version}")
        with _Judgement(self, tickets) as judgement:
            async with self._origin.receive(blob, wanted, buffer, tier) as chunks:
                yield _watched(judgement, chunks)

    async def _admit(self, doing: str) -> _Tickets:
        while (circuit := self._circuit()).refuses:
            if circuit.phase is Phase.OPEN:
                raise self._paused(doing, circuit)
            await self._shown.wait()
        now = self._now()
        # The documents' circuit is spoken for where it waits for a probe, and not counted in otherwise.
        breakers = (self._files, self._documents)
        asked = [item for item in breakers if item is self._files or item.phase(now) is Phase.DUE]
        tickets = ((breaker, breaker.admit(now)) for breaker in asked)
        return tuple((breaker, ticket) for breaker, ticket in tickets if ticket is not None)

    def _paused(self, doing: str, circuit: Circuit) -> OriginPaused:
        self._observer.origin_failed("paused")
        return OriginPaused(self.url, doing, circuit.failures, circuit.retry_after_seconds)

    def succeeded(self, tickets: _Tickets) -> None:
        """Take in a good verdict."""
        for breaker, ticket in tickets:
            breaker.succeeded(ticket)
        self._tell(None)

    def failed(self, tickets: _Tickets, error: OriginError) -> None:
        """Take in an error; only an origin that did not answer is at fault for it."""
        self._observer.origin_failed(_kind(error))
        for breaker, ticket in tickets:
            if isinstance(error, OriginBusy):
                breaker.abandoned(ticket)
            elif isinstance(error, OriginUnreachable):
                breaker.failed(ticket, self._now(), error.retry_after_seconds)
            else:
                breaker.succeeded(ticket)
        self._tell(error)

    def abandoned(self, tickets: _Tickets) -> None:
        """Take in that a request ended for reasons that are not the origin's."""
        for breaker, ticket in tickets:
            breaker.abandoned(ticket)
        self._tell(None)

    def _tell(self, error: OriginError | None) -> None:
        circuit = self._circuit()
        if circuit.phase is not Phase.PROBING:
            self._shown.set()
            self._shown = asyncio.Event()
        is_open = circuit.phase is not Phase.CLOSED
        if is_open == self._is_open:
            return
        self._is_open = is_open
        self._observer.circuit_opened(is_open)
        if is_open:
            fields = {"origin": self.url, "failures": circuit.failures, "reason": error}
            log_event(_log, logging.WARNING, "the origin is left alone for a while", fields)
        else:
            log_event(_log, logging.INFO, "the origin answers again", {"origin": self.url})


class _Judgement:
    """What one request shows: that the origin works, and perhaps later that it does not, each said once.

    A context manager around the request. Errors that are no ``OriginError`` show nothing: they are its
    user's, who may also just go away.
    """

    def __init__(self, guard: GuardedOrigin, tickets: _Tickets) -> None:
        self._guard = guard
        self._tickets = tickets
        self._succeeded = False
        self._failed = False

    def __enter__(self) -> _Judgement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OriginError):
            self.failed(error)
        elif isinstance(error, FormatError):
            self.succeeded()
        elif not (self._succeeded or self._failed):
            self._guard.abandoned(self._tickets)

    def succeeded(self) -> None:
        """Note that the origin works."""
        if not (self._succeeded or self._failed):
            self._succeeded = True
            self._guard.succeeded(self._tickets)

    def failed(self, error: OriginError) -> None:
        """Note an error of the origin."""
        if not self._failed:
            self._failed = True
            self._guard.failed(self._tickets, error)


async def _watched(judgement: _Judgement, chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received >= _PROOF_BYTES:
            judgement.succeeded()
        yield chunk
    judgement.succeeded()


def _kind(error: OriginError) -> str:
    match error:
        case OriginPaused():
            return "paused"
        case OriginUnreachable():
            return "unreachable"
        case OriginDenied():
            return "denied"
        case ObjectChanged():
            return "changed"
        case _:
            return "other"
