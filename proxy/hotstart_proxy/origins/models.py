"""The cache's side of an origin: models, versions and blobs, whatever gives them.

What gives them is a tree of objects (``tree``), another proxy (``upstream``), or the next level of this
proxy's own stores (``hotstart_proxy.cache.levels``). Publishing speaks to trees alone, by their keys
(``base.Origin``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from hotstart.wire.catalog import KnownIndex
from hotstart.wire.manifest import Representation
from hotstart.wire.opening import Fallback
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.core.breaker import Circuit
from hotstart_proxy.core.tiers import Tier

__all__ = ["ModelOrigin", "VersionBlob"]


@dataclass(frozen=True, slots=True)
class VersionBlob:
    """A representation, and a version that it is known to belong to (others may share it)."""

    model: str
    version: str
    representation: Representation


class ModelOrigin(ABC):
    """Where a cache gets its models. Safe for concurrent use by the tasks of one event loop.

    Use as an async context manager. "Cannot" is never "missing": absence is None, everything else an
    ``OriginError`` that says what was being done.
    """

    url: str
    can_presign: bool

    @abstractmethod
    async def __aenter__(self) -> ModelOrigin: ...

    @abstractmethod
    async def __aexit__(self, *exc_info: object) -> None: ...

    @abstractmethod
    async def models(self) -> tuple[str, ...]:
        """Return the names of all models, sorted.

        Raises:
            OriginError
        """

    @abstractmethod
    async def index(self, model: str, now_ms: int, known: KnownIndex | None) -> KnownIndex | None:
        """Return what there is of a model; None if there is no such model.

        Args:
            model: two segments.
            now_ms: milliseconds since the epoch.
            known: the last answer, which makes the next one cheaper; None to be told in full.

        Raises:
            OriginError, FormatError
        """

    @abstractmethod
    async def manifest(self, model: str, version: str, now_ms: int) -> bytes | None:
        """Return a version's manifest, its exact bytes; None if there is no such version.

        Raises:
            OriginError
        """

    @abstractmethod
    def get(
        self, blob: VersionBlob, wanted: ByteRange, tier: Tier = Tier.STANDARD
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream exactly the wanted bytes of one representation, none of another object's.

        Retries and resumes at the byte by itself; chunks are the caller's to keep. tier is who it is for, as
        far as the origin cares.

        Raises (on entering or while iterating):
            ObjectChanged: there is another object by now, or none.
            OriginUnreachable, OriginDenied
        """

    def receive(
        self, blob: VersionBlob, wanted: ByteRange, buffer: memoryview, tier: Tier = Tier.STANDARD
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes | memoryview]]:
        """Stream as ``get``, for whoever is done with a chunk before the next one is asked for.

        Args:
            blob, wanted, tier: as in get.
            buffer: not empty. Where the origin receives straight into memory, chunks are this buffer, filled
                from its start to its end (the last one perhaps not): each is overwritten by the next.
        """
        return self.get(blob, wanted, tier)

    @abstractmethod
    async def presign(self, blobs: Sequence[VersionBlob], expires_in_seconds: int) -> Fallback | None:
        """Return a URL for each of some blobs of one version, by representation path.

        Args:
            blobs: all of one version, at least one.
            expires_in_seconds: asked for; what is given may be less.

        Returns:
            None where this origin cannot pre-sign (now, or these).

        Raises:
            OriginError
        """

    def circuit(self, blob: VersionBlob, wanted: ByteRange) -> Circuit:
        """Tell how asking for these bytes would fare now, so that whoever can do without need not try."""
        return Circuit()

    async def found_damaged(self, blob: VersionBlob) -> None:
        """Take note that a piece came other than it was announced, before it is asked for again."""
        return

    def is_near(self, blob: VersionBlob, wanted: ByteRange) -> bool:
        """Tell whether these bytes are in another store of this very proxy, which nobody need go around."""
        return False
