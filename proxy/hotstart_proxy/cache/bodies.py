"""The three bodies: bytes of a blob, of a fill, and of the origin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from hotstart.wire.ranges import ByteRange
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.models import VersionBlob
from hotstart_proxy.stores.base import Blob, FileSlice, StoreError, Vanished

from .answers import Body, BodySource, ReadOutcome
from .fills import FillReader
from .passthrough import PassThrough

__all__ = ["FillBody", "HitBody", "Onward", "PassedBody", "Tally"]


def _length(part: FileSlice | bytes) -> int:
    return part.length if isinstance(part, FileSlice) else len(part)


class Tally:
    """How many bodies are open."""

    def __init__(self) -> None:
        self.open = 0


class _CountedBody(Body):
    def __init__(self, length: int, tally: Tally) -> None:
        self.length = length
        self._tally: Tally | None = tally
        tally.open += 1

    async def close(self) -> None:
        tally, self._tally = self._tally, None
        if tally is not None:
            tally.open -= 1
        await self._let_go()

    @abstractmethod
    async def _let_go(self) -> None:
        """Close what the bytes come from; idempotent."""


class PassedBody(_CountedBody):
    """Bytes on their way from the origin, kept by nobody."""

    source = BodySource.PASSED_ON
    outcome = ReadOutcome.PASSED_ON

    def __init__(
        self,
        blob: VersionBlob,
        wanted: ByteRange,
        tier: Tier,
        passthrough: PassThrough,
        observer: Observer,
        tally: Tally,
    ) -> None:
        super().__init__(len(wanted), tally)
        self._model = blob.model
        self._observer = observer
        self._stream: AsyncGenerator[bytes, None] = passthrough.stream(blob, wanted, tier)

    async def parts(self) -> AsyncIterator[FileSlice | bytes]:
        async for chunk in self._stream:
            self._observer.answered(self._model, self.source.value, len(chunk))
            yield chunk

    async def _let_go(self) -> None:
        await self._stream.aclose()


@dataclass(frozen=True, slots=True)
class Onward:
    """How a body goes on where its store fails midway.

    Attributes:
        blob: what is read.
        tier: the reader's.
        passthrough: gives the rest where the store does not work.
        again: gives the rest where the store has lost some of it and knows: a fill of that alone.
        failed: told why.
    """

    blob: VersionBlob
    tier: Tier
    passthrough: PassThrough
    again: Callable[[ByteRange], Awaitable[Body]]
    failed: Callable[[StoreError], None]


class _StoredBody(_CountedBody):
    """Bytes of the store; where it fails midway, the rest comes by another way."""

    def __init__(self, wanted: ByteRange, onward: Onward, observer: Observer, tally: Tally) -> None:
        super().__init__(len(wanted), tally)
        self._wanted = wanted
        self._onward = onward
        self._observer = observer
        self._rest: Body | None = None

    @abstractmethod
    def _stored(self) -> AsyncIterator[FileSlice | bytes]:
        """Give the wanted bytes from the store."""

    @abstractmethod
    async def _close_stored(self) -> None:
        """Let go of the store; idempotent."""

    async def parts(self) -> AsyncIterator[FileSlice | bytes]:
        position = self._wanted.start
        try:
            async for part in self._stored():
                position += _length(part)
                self._observer.answered(self._onward.blob.model, self.source.value, _length(part))
                yield part
            return
        except StoreError as error:
            failure = error
        self._onward.failed(failure)
        self._rest = await self._go_on(ByteRange(position, self._wanted.stop), failure)
        self.source = self._rest.source
        async for part in self._rest.parts():
            yield part

    async def _go_on(self, rest: ByteRange, failure: StoreError) -> Body:
        if isinstance(failure, Vanished):
            return await self._onward.again(rest)
        onward = self._onward
        return PassedBody(onward.blob, rest, onward.tier, onward.passthrough, self._observer, Tally())

    async def _let_go(self) -> None:
        try:
            if self._rest is not None:
                await self._rest.close()
        finally:
            await self._close_stored()


class HitBody(_StoredBody):
    """Bytes of a complete blob; an eviction does not disturb it."""

    source = BodySource.HIT
    outcome = ReadOutcome.HIT

    def __init__(
        self,
        blob: Blob,
        wanted: ByteRange,
        store_kind: str,
        closed: Callable[[str], None],
        onward: Onward,
        observer: Observer,
        tally: Tally,
    ) -> None:
        """Take over an open blob; closed is told its content id once."""
        super().__init__(wanted, onward, observer, tally)
        self._closed: Callable[[str], None] | None = closed
        self._blob = blob
        self._store_kind = store_kind

    def whole(self) -> FileSlice | None:
        part = self._blob.whole(self._wanted)
        if part is not None:
            self._observer.store_read(self._store_kind, part.length)
            self._observer.answered(self._onward.blob.model, self.source.value, part.length)
        return part

    async def _stored(self) -> AsyncIterator[FileSlice | bytes]:
        async for part in self._blob.parts(self._wanted):
            self._observer.store_read(self._store_kind, _length(part))
            yield part

    async def _close_stored(self) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            await self._blob.close()
            closed(self._blob.id)


class FillBody(_StoredBody):
    """Bytes of a fill as they are verified."""

    source = BodySource.FILL

    def __init__(self, reader: FillReader, onward: Onward, observer: Observer, tally: Tally) -> None:
        """Take over a reader."""
        super().__init__(reader.wanted, onward, observer, tally)
        self.outcome = reader.outcome
        self._reader = reader

    @property
    def queue_seconds(self) -> float:
        return self._reader.queue_seconds

    def _stored(self) -> AsyncIterator[FileSlice | bytes]:
        return self._reader.parts()

    async def _close_stored(self) -> None:
        await self._reader.close()
