"""The three bodies: bytes of a blob, of a fill, and of the origin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from hotstart.wire.ranges import ByteRange
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.models import VersionBlob
from hotstart_proxy.stores.base import Blob, FileSlice, StoreError

from .answers import Body, BodySource, ReadOutcome
from .fills import FillReader
from .passthrough import PassThrough

__all__ = ["FillBody", "HitBody", "PassedBody", "Tally"]


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


class HitBody(_CountedBody):
    """Bytes of a complete blob; an eviction does not disturb it."""

    source = BodySource.HIT
    outcome = ReadOutcome.HIT

    def __init__(
        self,
        model: str,
        blob: Blob,
        wanted: ByteRange,
        observer: Observer,
        closed: Callable[[str], None],
        tally: Tally,
    ) -> None:
        """Take over an open blob; closed is told its content id once."""
        super().__init__(len(wanted), tally)
        self._closed: Callable[[str], None] | None = closed
        self._model = model
        self._blob = blob
        self._wanted = wanted
        self._observer = observer

    async def parts(self) -> AsyncIterator[FileSlice | bytes]:
        async for part in self._blob.parts(self._wanted):
            self._observer.answered(self._model, self.source.value, _length(part))
            yield part

    async def _let_go(self) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            await self._blob.close()
            closed(self._blob.id)


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


class FillBody(_CountedBody):
    """Bytes of a fill as they are verified; if the store fails midway, the rest comes from the origin."""

    source = BodySource.FILL

    def __init__(
        self, reader: FillReader, passthrough: PassThrough, observer: Observer, tally: Tally
    ) -> None:
        super().__init__(len(reader.wanted), tally)
        self.outcome = reader.outcome
        self._reader = reader
        self._passthrough = passthrough
        self._observer = observer
        self._rest: PassedBody | None = None

    @property
    def queue_seconds(self) -> float:
        return self._reader.queue_seconds

    async def parts(self) -> AsyncIterator[FileSlice | bytes]:
        fill, wanted = self._reader.fill, self._reader.wanted
        position = wanted.start
        try:
            async for part in self._reader.parts():
                position += _length(part)
                self._observer.answered(fill.blob.model, self.source.value, _length(part))
                yield part
            return
        except StoreError:
            rest = ByteRange(position, wanted.stop)
        self.source = BodySource.PASSED_ON
        self._rest = PassedBody(
            fill.blob, rest, self._reader.tier, self._passthrough, self._observer, Tally()
        )
        async for part in self._rest.parts():
            yield part

    async def _let_go(self) -> None:
        try:
            if self._rest is not None:
                await self._rest.close()
        finally:
            await self._reader.close()
