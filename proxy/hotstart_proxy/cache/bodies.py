"""The three bodies: bytes of a blob, of a fill, and of the origin."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from hotstart.wire.ranges import ByteRange
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.models import VersionBlob
from hotstart_proxy.stores.base import Blob, FileSlice, StoreError

from .answers import Body, BodySource
from .fills import FillReader
from .passthrough import PassThrough

__all__ = ["FillBody", "HitBody", "PassedBody"]


def _length(part: FileSlice | bytes) -> int:
    return part.length if isinstance(part, FileSlice) else len(part)


class HitBody(Body):
    """Bytes of a complete blob; an eviction does not disturb it."""

    source = BodySource.HIT

    def __init__(
        self, model: str, blob: Blob, wanted: ByteRange, observer: Observer, closed: Callable[[str], None]
    ) -> None:
        """Take over an open blob; closed is told its content id once."""
        self.length = len(wanted)
        self._closed: Callable[[str], None] | None = closed
        self._model = model
        self._blob = blob
        self._wanted = wanted
        self._observer = observer

    async def parts(self) -> AsyncIterator[FileSlice | bytes]:
        async for part in self._blob.parts(self._wanted):
            self._observer.answered(self._model, self.source.value, _length(part))
            yield part

    async def close(self) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            await self._blob.close()
            closed(self._blob.id)


class PassedBody(Body):
    """Bytes on their way from the origin, kept by nobody."""

    source = BodySource.PASSED_ON

    def __init__(
        self,
        blob: VersionBlob,
        wanted: ByteRange,
        tier: Tier,
        passthrough: PassThrough,
        observer: Observer,
    ) -> None:
        self.length = len(wanted)
        self._model = blob.model
        self._observer = observer
        self._stream: AsyncGenerator[bytes, None] = passthrough.stream(blob, wanted, tier)

    async def parts(self) -> AsyncIterator[FileSlice | bytes]:
        async for chunk in self._stream:
            self._observer.answered(self._model, self.source.value, len(chunk))
            yield chunk

    async def close(self) -> None:
        await self._stream.aclose()


class FillBody(Body):
    """Bytes of a fill as they are verified; if the store fails midway, the rest comes from the origin."""

    source = BodySource.FILL

    def __init__(self, reader: FillReader, passthrough: PassThrough, observer: Observer) -> None:
        self.length = len(reader.wanted)
        self._reader = reader
        self._passthrough = passthrough
        self._observer = observer
        self._rest: PassedBody | None = None

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
        self._rest = PassedBody(fill.blob, rest, self._reader.tier, self._passthrough, self._observer)
        async for part in self._rest.parts():
            yield part

    async def close(self) -> None:
        try:
            if self._rest is not None:
                await self._rest.close()
        finally:
            await self._reader.close()
