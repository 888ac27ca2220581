"""An origin that notes every write, and can die at one: what a killed publisher leaves behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from hotstart.wire.catalog import Listing, ObjectBytes
from hotstart.wire.manifest import OriginObject
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.origins.base import ObjectInfo, Origin, PresignedUrl

__all__ = ["Crash", "RecordingOrigin"]


class Crash(Exception):
    """The publisher's process ended here."""


class RecordingOrigin(Origin):
    """Passes everything on, and notes writes in the order in which they took effect.

    Attributes:
        writes: ``"put KEY"``, ``"upload KEY"`` or ``"delete KEY"`` of each write that succeeded.
        before_write: called with the note before every write.
    """

    def __init__(self, inner: Origin, crash_at: int | None = None, *, after: bool = False) -> None:
        """Wrap inner.

        Args:
            inner: entered, and closed by whoever entered it.
            crash_at: number, from 0, of the write at which to raise Crash; all later calls raise it too.
            after: let that write take effect first, so that only its answer is lost.
        """
        self.inner = inner
        self.url = inner.url
        self.identity = inner.identity
        self.can_presign = inner.can_presign
        self.writes: list[str] = []
        self.before_write: Callable[[str], None] = lambda note: None
        self.crashed = False
        self._crash_at = crash_at
        self._after = after
        self._attempts = 0

    async def __aenter__(self) -> RecordingOrigin:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return

    def _check_alive(self) -> None:
        if self.crashed:
            raise Crash

    def _begin(self, note: str) -> bool:
        """Return whether the process dies once this write has taken effect."""
        self._check_alive()
        self.before_write(note)
        dies = self._attempts == self._crash_at
        self._attempts += 1
        if dies and not self._after:
            self.crashed = True
            raise Crash
        return dies

    def _end(self, note: str, *, dies: bool) -> None:
        self.writes.append(note)
        if dies:
            self.crashed = True
        self._check_alive()

    async def read(self, key: str, known_etag: str | None = None) -> ObjectBytes | None:
        self._check_alive()
        return await self.inner.read(key, known_etag)

    def get(self, item: OriginObject, wanted: ByteRange) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        self._check_alive()
        return self.inner.get(item, wanted)

    async def head(self, key: str) -> ObjectInfo | None:
        self._check_alive()
        return await self.inner.head(key)

    async def list(self, prefix: str, *, recursive: bool) -> Listing:
        self._check_alive()
        return await self.inner.list(prefix, recursive=recursive)

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        create_only: bool = False,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
        media_type: str = "application/octet-stream",
    ) -> ObjectInfo:
        dies = self._begin(f"put {key}")
        info = await self.inner.put(
            key,
            data,
            create_only=create_only,
            if_match=if_match,
            metadata=metadata,
            media_type=media_type,
        )
        self._end(f"put {key}", dies=dies)
        return info

    async def upload(
        self,
        key: str,
        source: Path,
        *,
        metadata: Mapping[str, str],
        media_type: str,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        dies = self._begin(f"upload {key}")
        info = await self.inner.upload(
            key, source, metadata=metadata, media_type=media_type, progress=progress
        )
        self._end(f"upload {key}", dies=dies)
        return info

    async def clear_uploads(self, prefix: str) -> None:
        self._check_alive()
        await self.inner.clear_uploads(prefix)

    async def delete(self, key: str) -> None:
        dies = self._begin(f"delete {key}")
        await self.inner.delete(key)
        self._end(f"delete {key}", dies=dies)

    async def presign(self, item: OriginObject, expires_in_seconds: int) -> PresignedUrl | None:
        self._check_alive()
        return await self.inner.presign(item, expires_in_seconds)

    async def check_publishable(self) -> None:
        # The probe's own writes are no part of the layout.
        self._check_alive()
        await self.inner.check_publishable()
