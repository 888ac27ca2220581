"""The origin: where the truth is. A bucket and prefix, or a directory; keys are relative to the prefix.

"Cannot" is never "missing": absence is None, everything else an error that says what was being done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from hotstart.wire.catalog import Listing, ObjectBytes
from hotstart.wire.errors import HotstartError
from hotstart.wire.manifest import OriginObject
from hotstart.wire.ranges import ByteRange

__all__ = [
    "AlreadyExists",
    "ObjectChanged",
    "ObjectInfo",
    "Origin",
    "OriginBusy",
    "OriginDenied",
    "OriginError",
    "OriginIdentity",
    "OriginLoop",
    "OriginPaused",
    "OriginUnfit",
    "OriginUnreachable",
    "PresignedUrl",
    "UploadCleared",
]


class OriginError(HotstartError):
    """Something at the origin went wrong.

    Attributes:
        origin: its URL, without credentials.
        doing: what was attempted, for example ``"reading org/bert/7/model.safetensors"``.
        reason: what came back.
    """

    def __init__(self, origin: str, doing: str, reason: str) -> None:
        self.origin = origin
        self.doing = doing
        self.reason = reason
        super().__init__(f"{origin}: {doing}: {reason}")


class OriginUnreachable(OriginError):
    """No usable answer after retries: connection, time-out, 5xx, or a body cut short.

    Attributes:
        retry_after_seconds: for how long the origin asks to be left alone; None where it does not say.
    """

    def __init__(
        self, origin: str, doing: str, reason: str, *, retry_after_seconds: float | None = None
    ) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(origin, doing, reason)


class OriginPaused(OriginUnreachable):
    """The origin was not asked: it failed again and again, and is left alone for a while.

    Attributes:
        pause_seconds: until it is asked again, as far as that is known.
    """

    def __init__(self, origin: str, doing: str, failures: int, pause_seconds: float) -> None:
        self.failures = failures
        self.pause_seconds = pause_seconds
        # No seconds in the words: they go where errors are compared and counted.
        reason = f"not asked, for it failed {failures} times in a row and is left alone for a while"
        super().__init__(origin, doing, reason, retry_after_seconds=pause_seconds)


class OriginBusy(OriginUnreachable):
    """The origin works, but takes no more of this kind of request now: not a failure of it."""


class OriginDenied(OriginError):
    """Credentials are missing, expired, or lack the right."""


class OriginLoop(OriginError):
    """A chain of proxies leads back to one that it has passed already, or is longer than any should be."""


class ObjectChanged(OriginError):
    """The object is not (or no longer) the one asked for: If-Match failed, or it is gone."""


class AlreadyExists(OriginError):
    """A create-only write met an object."""


class UploadCleared(OriginError):
    """An upload cannot end: somebody cleared away what it had sent (``Origin.clear_uploads``)."""


class OriginUnfit(OriginError):
    """The origin lacks what publishing needs: it ignores conditions on writes."""


@dataclass(frozen=True, slots=True)
class OriginIdentity:
    """What, with key, ETag and size, makes the content id of an adopted file (``adopted_id``).

    Attributes:
        endpoint: URL without path; ``file://`` for a directory.
        bucket: bucket name, or the directory's absolute path.
        prefix: with a trailing slash, or empty; part of every key in the bucket.
    """

    endpoint: str
    bucket: str
    prefix: str


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the origin describes it.

    Attributes:
        key: relative to the prefix.
        size: bytes.
        etag: quotes included.
        last_modified: milliseconds since the epoch.
        version_id: None where the bucket is not versioned.
        metadata: the user metadata put with it, names in lower case; empty in listings.
    """

    key: str
    size: int
    etag: str
    last_modified: int
    version_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PresignedUrl:
    """A URL that reads one object without credentials; never logged.

    Attributes:
        expires_in_seconds: the lesser of what was asked and what the signing session has left.
    """

    url: str
    expires_in_seconds: int

    def __repr__(self) -> str:
        return f"PresignedUrl(expires_in_seconds={self.expires_in_seconds})"


class Origin(ABC):
    """One origin. Safe for concurrent use by the tasks of one event loop; use as an async context manager."""

    url: str
    identity: OriginIdentity
    can_presign: bool

    @abstractmethod
    async def __aenter__(self) -> Origin: ...

    @abstractmethod
    async def __aexit__(self, *exc_info: object) -> None: ...

    @abstractmethod
    async def read(self, key: str, known_etag: str | None = None) -> ObjectBytes | None:
        """Read a small object whole; None if there is none.

        With known_etag the answer may be ``NOT_MODIFIED`` (its ``data`` is None).
        """

    @abstractmethod
    def get(self, item: OriginObject, wanted: ByteRange) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream exactly the wanted bytes of the object pinned by its ETag.

        Retries and resumes at the byte by itself; chunks are the caller's to keep.

        Raises (on entering or while iterating):
            ObjectChanged: the object has another ETag, or is gone.
            OriginUnreachable, OriginDenied
        """

    def receive(
        self, item: OriginObject, wanted: ByteRange, buffer: memoryview
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes | memoryview]]:
        """Stream as ``get``, for whoever is done with a chunk before the next one is asked for.

        Args:
            item, wanted: as in get.
            buffer: not empty. Where the origin receives straight into memory, chunks are this buffer, filled
                from its start to its end (the last one perhaps not): each is overwritten by the next.
        """
        return self.get(item, wanted)

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo | None:
        """Describe an object, with its metadata; None if there is none."""

    @abstractmethod
    async def list(self, prefix: str, *, recursive: bool) -> Listing:
        """List what lies under prefix (relative; empty or with a trailing slash).

        Not recursive: objects directly there, and the folders.
        """

    @abstractmethod
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
        """Write a small object whole, atomically.

        Raises:
            AlreadyExists: create_only, and there is one.
            ObjectChanged: if_match, and it has another ETag or is gone; lost races (409) included.
        """

    @abstractmethod
    async def upload(
        self,
        key: str,
        source: Path,
        *,
        metadata: Mapping[str, str],
        media_type: str,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        """Write a file as a new object (create-only), large ones in parallel parts.

        A cancelled or failed upload leaves no object and no parts behind. progress is told how many more
        bytes have arrived.

        Raises:
            AlreadyExists: there is one.
            UploadCleared: somebody cleared it away, or its own end arrived though the answer did not.
        """

    @abstractmethod
    async def clear_uploads(self, prefix: str) -> None:
        """Remove what uploads under prefix that have not ended left there: parts, temporary files.

        A killed process cannot do it itself. Uploads that still go on end with ``UploadCleared``.
        """

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""

    @abstractmethod
    async def presign(self, item: OriginObject, expires_in_seconds: int) -> PresignedUrl | None:
        """Return a URL to GET the object with; None where this origin never can."""

    @abstractmethod
    async def check_publishable(self) -> None:
        """Prove by a throw-away object that conditional writes hold.

        Raises:
            OriginUnfit: they do not.
        """
