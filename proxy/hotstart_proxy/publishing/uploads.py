"""Putting a version's data objects: create-only; what is there already with the same bytes is not sent."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hotstart.wire.errors import HotstartError
from hotstart.wire.layout import file_key, version_prefix
from hotstart.wire.manifest import OriginObject
from hotstart_proxy.origins.base import AlreadyExists, ObjectInfo, Origin, OriginError, UploadCleared

from .errors import VersionGone, VersionRefused
from .folder import SourceFile
from .progress import Progress, Stage

__all__ = ["SHA256_METADATA", "Arrival", "Uploader", "clear_unfinished"]

# The name of the user metadata that says what bytes an object holds: x-amz-meta-sha256.
SHA256_METADATA = "sha256"


@dataclass(frozen=True, slots=True)
class Arrival:
    """An object that is at the origin now.

    Attributes:
        size: bytes.
        sent: whether we sent it; otherwise it was there.
    """

    origin: OriginObject
    size: int
    sent: bool


async def clear_unfinished(origin: Origin, model: str, version: str) -> None:
    """Remove parts and temporary files that killed publishers of a version left, if that can be done.

    They harm nobody and cost space. Whether a role may look for them, and a server can, says nothing of
    whether the version can be published.
    """
    with suppress(OriginError):
        await origin.clear_uploads(version_prefix(model, version))


class Uploader:
    """Uploads the files and twins of one version. For the tasks of one event loop."""

    def __init__(
        self, origin: Origin, model: str, version: str, present: Collection[str], progress: Progress
    ) -> None:
        """Keep what all uploads share.

        Args:
            origin: where to.
            model: two segments.
            version: its id.
            present: keys that were there when we began; asked about before bytes are sent in vain.
            progress: is told of every byte.
        """
        self._origin = origin
        self._model = model
        self._version = version
        self._present = present
        self._progress = progress

    async def upload_source(self, source: SourceFile, sha256: str, media_type: str) -> Arrival:
        """Put a file of the folder, whose bytes must still be those of sha256.

        Raises:
            FileChanged: they are not; what was put is taken back.
            VersionRefused: another object is there.
            VersionGone: somebody unpublishes the version.
            OriginError
        """
        source.check_unchanged()
        try:
            arrival = await self.upload(source.path, source.location, source.size, sha256, media_type)
        except HotstartError:
            # A file that shrinks breaks its upload in some way or other; this is the reason to give.
            source.check_unchanged()
            raise
        try:
            source.check_unchanged()
        except HotstartError:
            if arrival.sent:
                await self._origin.delete(arrival.origin.key)
            raise
        return arrival

    async def upload(self, path: str, location: Path, size: int, sha256: str, media_type: str) -> Arrival:
        """Put a file that nobody else writes to (errors as upload_source, but FileChanged).

        Args:
            path: of the representation in the version.
            location: where its bytes are.
            size: bytes.
            sha256: hex.
            media_type: its Content-Type.
        """
        key = file_key(self._model, self._version, path)
        self._progress.expect(Stage.UPLOADING, size)
        found = await self._origin.head(key) if key in self._present else None
        if found is None:
            try:
                info = await self._origin.upload(
                    key,
                    location,
                    metadata={SHA256_METADATA: sha256},
                    media_type=media_type,
                    progress=partial(self._progress.advance, Stage.UPLOADING),
                )
            except (AlreadyExists, UploadCleared) as error:
                # Another publisher of the same version, or our own upload whose answer was lost.
                found = await self._origin.head(key)
                if found is None and isinstance(error, UploadCleared):
                    raise VersionGone(self._model, self._version) from error
                if found is None:
                    raise
            else:
                self._progress.end(path, "uploaded")
                return Arrival(OriginObject(key, info.etag, info.version_id), size, sent=True)
        self._check_same(path, found, size, sha256)
        self._progress.advance(Stage.UPLOADING, size)
        self._progress.end(path, "already there")
        return Arrival(OriginObject(key, found.etag, found.version_id), size, sent=False)

    def _check_same(self, path: str, found: ObjectInfo, size: int, sha256: str) -> None:
        if (found.size, found.metadata.get(SHA256_METADATA)) != (size, sha256):
            raise VersionRefused(
                self._model,
                self._version,
                f"has {path} already, with other bytes than are to be published (written by hand, or a twin "
                f"made by another zstd): clear it with hotstart unpublish {self._model}@{self._version}, "
                "then publish again",
            )
