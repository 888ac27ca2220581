"""A tree of objects as the origin of a cache: the catalog read by keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from hotstart.wire.adoption import Layout
from hotstart.wire.catalog import KnownIndex
from hotstart.wire.opening import Fallback
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.core.tiers import Tier

from .base import Origin
from .catalog import catalog_of, perform
from .models import ModelOrigin, VersionBlob

__all__ = ["TreeOrigin"]


class TreeOrigin(ModelOrigin):
    """Models in a bucket or directory."""

    def __init__(self, origin: Origin, layout: Layout) -> None:
        """Read an origin as a tree of models.

        Args:
            origin: entered and left with this one.
            layout: where files that hotstart did not publish lie.
        """
        self.url = origin.url
        self.can_presign = origin.can_presign
        self._origin = origin
        self._catalog = catalog_of(origin, layout)

    async def __aenter__(self) -> TreeOrigin:
        await self._origin.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._origin.__aexit__(*exc_info)

    async def models(self) -> tuple[str, ...]:
        return await perform(self._origin, self._catalog.models())

    async def index(self, model: str, now_ms: int, known: KnownIndex | None) -> KnownIndex | None:
        return await perform(self._origin, self._catalog.index(model, now_ms, known))

    async def manifest(self, model: str, version: str, now_ms: int) -> bytes | None:
        return await perform(self._origin, self._catalog.manifest(model, version, now_ms))

    def get(
        self, blob: VersionBlob, wanted: ByteRange, tier: Tier = Tier.STANDARD
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._origin.get(blob.representation.origin, wanted)

    def receive(
        self, blob: VersionBlob, wanted: ByteRange, buffer: memoryview, tier: Tier = Tier.STANDARD
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes | memoryview]]:
        return self._origin.receive(blob.representation.origin, wanted, buffer)

    async def presign(self, blobs: Sequence[VersionBlob], expires_in_seconds: int) -> Fallback | None:
        urls: dict[str, str] = {}
        if not self.can_presign:
            return None
        for blob in blobs:
            signed = await self._origin.presign(blob.representation.origin, expires_in_seconds)
            if signed is None:
                return None
            urls[blob.representation.path] = signed.url
            expires_in_seconds = min(expires_in_seconds, signed.expires_in_seconds)
        return Fallback(urls, expires_in_seconds)
