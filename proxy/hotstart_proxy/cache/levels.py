"""Levels: a cache whose origin is another cache, on another store, in the same process.

Read from the top: what the first store lacks comes from the second one's cache, what that lacks from the
origin, and every store keeps what went through it. Each level has a budget, holdings and fills of its own, so
each decides for itself, and one that fails is passed by.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from hotstart.wire.catalog import KnownIndex
from hotstart.wire.errors import FormatError, HotstartError
from hotstart.wire.index import Index
from hotstart.wire.manifest import Representation
from hotstart.wire.opening import Fallback
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import Reference
from hotstart_proxy.core.breaker import Circuit
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.base import ObjectChanged, OriginError, OriginUnreachable
from hotstart_proxy.origins.models import ModelOrigin, VersionBlob
from hotstart_proxy.stores.base import FileSlice, Store, StoreError
from hotstart_proxy.telemetry.load import Load

from .answers import Body, CacheClosed, CacheState, NotFound, PinRefused, Resolved
from .cache import Cache
from .settings import CacheSettings
from .uses import StoreView
from .verification import Verification

__all__ = ["LevelOrigin", "LeveledCache"]

# What a read of a file in a thread moves at once.
_READ_BYTES = 1024 * 1024
# A store that breaks off an answer that often, without a byte in between, is not asked again.
_TRIES = 3
_MOST_REMEMBERED = 64


class LevelOrigin(ModelOrigin):
    """The next level's cache as an origin. The cache is the caller's, entered before and left after."""

    def __init__(self, below: Cache, url: str) -> None:
        """Read from a cache.

        Args:
            below: the next level.
            url: of its store, for errors.
        """
        self.url = url
        self.can_presign = below.can_presign
        self._below = below
        # What was last resolved: a version that is unpublished while it is read is read to its end.
        self._resolved: dict[tuple[str, str], Resolved] = {}
        self._asking: Counter[str] = Counter()

    async def __aenter__(self) -> LevelOrigin:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def models(self) -> tuple[str, ...]:
        with self._translated("listing the models"):
            return await self._below.models(0.0)

    async def index(self, model: str, now_ms: int, known: KnownIndex | None) -> KnownIndex | None:
        # However old the level above may let it grow, it is not older by this level's time to live as well.
        with self._translated(f"reading the index of {model}"):
            self._asking[model] += 1
            try:
                index = await self._below.index(model, 0.0)
            except NotFound:
                return None
            finally:
                self._asking[model] -= 1
                if not self._asking[model]:
                    del self._asking[model]
        return known if known is not None and known.index == index else KnownIndex(index, None, None)

    def is_asking(self, model: str) -> bool:
        """Tell whether a model's index is being asked for, so that what comes of it will be known above."""
        return model in self._asking

    async def manifest(self, model: str, version: str, now_ms: int) -> bytes | None:
        with self._translated(f"reading the manifest of {model}@{version}"):
            try:
                return (await self._resolve(model, version)).manifest_bytes
            except NotFound:
                return None

    async def _resolve(self, model: str, version: str) -> Resolved:
        resolved = await self._below.resolve(Reference(model, version))
        self._resolved.pop((model, version), None)
        self._resolved[model, version] = resolved
        while len(self._resolved) > _MOST_REMEMBERED:
            del self._resolved[next(iter(self._resolved))]
        return resolved

    @asynccontextmanager
    async def get(
        self, blob: VersionBlob, wanted: ByteRange, tier: Tier = Tier.STANDARD
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        doing = f"reading bytes {wanted.start} to {wanted.stop} of {blob.representation.path}"
        with self._translated(doing):
            resolved, representation = await self._find(blob, doing)
        # Errors of whoever reads the bytes come by here, and are not ours to translate.
        async with contextlib.aclosing(self._chunks(resolved, representation, wanted, tier, doing)) as chunks:
            yield chunks

    async def _find(self, blob: VersionBlob, doing: str) -> tuple[Resolved, Representation]:
        try:
            resolved = await self._resolve(blob.model, blob.version)
        except (NotFound, OriginError, FormatError) as error:
            remembered = self._resolved.get((blob.model, blob.version))
            if remembered is None:
                if isinstance(error, NotFound):
                    raise ObjectChanged(self.url, doing, str(error)) from error
                raise
            resolved = remembered
        found = resolved.manifest.representation(blob.representation.path)
        if found is None or found.id != blob.representation.id:
            raise ObjectChanged(self.url, doing, "the version has other bytes by now")
        return resolved, found

    async def _chunks(
        self, resolved: Resolved, representation: Representation, wanted: ByteRange, tier: Tier, doing: str
    ) -> AsyncGenerator[bytes, None]:
        """Yield the wanted bytes; where the store breaks off, the rest is asked for anew."""
        position, tries = wanted.start, 0
        while position < wanted.stop:
            left = ByteRange(position, wanted.stop)
            before = position
            with self._translated(doing):
                body = await self._below.read(resolved, representation, left, may_redirect=False, tier=tier)
                assert isinstance(body, Body)
                try:
                    async for part in body.parts():
                        async for chunk in _bytes_of(part):
                            position += len(chunk)
                            yield chunk
                except StoreError:
                    tries = 1 if position > before else tries + 1
                    if tries >= _TRIES:
                        raise
                finally:
                    await body.close()

    async def presign(self, blobs: Sequence[VersionBlob], expires_in_seconds: int) -> Fallback | None:
        return await self._below.presign(blobs, expires_in_seconds)

    def circuit(self, blob: VersionBlob, wanted: ByteRange) -> Circuit:
        return self._below.circuit(blob, wanted)

    async def found_damaged(self, blob: VersionBlob) -> None:
        # What it gave was verified when it was stored, so it has changed since.
        with contextlib.suppress(StoreError):
            await self._below.quarantine(blob)

    def is_near(self, blob: VersionBlob, wanted: ByteRange) -> bool:
        return self._below.has(blob, wanted)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Turn what only a cache or store can say into what an origin says."""
        try:
            yield
        except (StoreError, CacheClosed) as error:
            raise OriginUnreachable(self.url, doing, str(error)) from error


async def _bytes_of(part: FileSlice | bytes) -> AsyncIterator[bytes]:
    """Yield a part's bytes; those of a file are read in a thread, a little at a time."""
    if isinstance(part, bytes):
        yield part
        return
    position, stop = part.offset, part.offset + part.length
    while position < stop:
        count = min(_READ_BYTES, stop - position)
        chunk = await asyncio.to_thread(os.pread, part.descriptor, count, position)
        if not chunk:
            raise StoreError("level", "reading a blob", f"its file ends at byte {position}, before {stop}")
        position += len(chunk)
        yield chunk


class LeveledCache(Cache):
    """A cache over another one; what an operator asks for is done at both."""

    def __init__(
        self,
        below: Cache,
        below_url: str,
        store: Store,
        settings: CacheSettings,
        observer: Observer,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Put a level over another; arguments not named here are as in ``Cache``.

        Args:
            below: the next level, entered before and left after.
            below_url: of its store.
            store: this level's.
        """
        self._way_down = LevelOrigin(below, below_url)
        super().__init__(self._way_down, store, settings, observer, now)
        self._below = below
        self._follows = False
        below.watch_indexes(self._index_seen_below)

    async def __aenter__(self) -> LeveledCache:
        await super().__aenter__()
        self._follows = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._follows = False
        await super().__aexit__(*exc_info)

    def _index_seen_below(self, before: Index | None, index: Index) -> None:
        # The origin was slower than the level above would wait, or what is new came from somebody else.
        if self._follows and not self._way_down.is_asking(index.model):
            self._spawn(self._follow(index.model))

    async def _follow(self, model: str) -> None:
        with contextlib.suppress(HotstartError):
            if await self.known_index(model) is not None:
                await self.poll(model)

    def state(self) -> CacheState:
        """Return how the levels are together: one that can serve is enough."""
        own, below = super().state(), self._below.state()
        # What is said of its origin here was said by the level below.
        degraded = tuple(dict.fromkeys((*own.degraded, *below.degraded)))
        return CacheState(bool(self._store.blobs()) or below.can_serve, degraded)

    def load(self) -> Load:
        """Return what is in hand at all levels; bodies are those of readers, which only the top has."""
        own, below = super().load(), self._below.load()
        return Load(
            bodies=own.bodies,
            fills=own.fills + below.fills,
            slots_held=own.slots_held + below.slots_held,
            slots_waiting=own.slots_waiting + below.slots_waiting,
            passes=own.passes + below.passes,
            passes_waiting=own.passes_waiting + below.passes_waiting,
            reserved_bytes=own.reserved_bytes + below.reserved_bytes,
        )

    async def warm(self, resolved: Resolved) -> None:
        """Fill a version at all levels; a lower one is filled on the way, or from the origin.

        Raises: as ``Cache.warm``, of this level. One below that fails is passed by.
        """
        await super().warm(resolved)
        # What readers read is here; the level below may lack it, and be unable to get it.
        with contextlib.suppress(StoreError, OriginError):
            await self._below.warm(resolved)

    async def evict(self, resolved: Resolved) -> int:
        """Remove what is held of a version at all levels; return bytes freed."""
        return await super().evict(resolved) + await self._below.evict(resolved)

    async def pin(self, resolved: Resolved) -> Resolved:
        """Pin a version at all levels, the lowest first: what does not fit there is kept nowhere."""
        model, version = resolved.manifest.model, resolved.manifest.version
        was_pinned = version in self._below.pinned_versions(model)
        await self._below.pin(resolved)
        try:
            return await super().pin(resolved)
        except (PinRefused, StoreError):
            if not was_pinned:
                await self._below.unpin(model, version)
            raise

    def pinned_versions(self, model: str) -> frozenset[str]:
        """Return the versions of a model that are pinned at any level, as last read."""
        return super().pinned_versions(model) | self._below.pinned_versions(model)

    def stores(self) -> tuple[StoreView, ...]:
        """Return what the stores of all levels hold, from this one down."""
        return (*super().stores(), *self._below.stores())

    async def in_use(self, model: str) -> bool:
        """Tell whether something of a model is held at any level, or a reader has asked for it of late."""
        if await super().in_use(model):
            return True
        with contextlib.suppress(StoreError):
            return await self._below.in_use(model)
        return False

    async def unpin(self, model: str, version: str) -> bool:
        """Unpin a version at all levels; tell whether it was pinned at any."""
        here = await super().unpin(model, version)
        return await self._below.unpin(model, version) or here

    async def verify(self) -> Verification:
        """Compare all that is held with its digests, below first, since that is refilled from.

        A level that cannot be read keeps no other from being verified, and is named.
        """
        try:
            below = await self._below.verify()
        except StoreError as error:
            below = Verification(failed=[str(error)])
        try:
            own = await super().verify()
        except StoreError as error:
            own = Verification(failed=[str(error)])
        return Verification(
            checked_blobs=own.checked_blobs + below.checked_blobs,
            checked_bytes=own.checked_bytes + below.checked_bytes,
            checked_documents=own.checked_documents + below.checked_documents,
            unknown_blobs=own.unknown_blobs + below.unknown_blobs,
            damaged=[*own.damaged, *below.damaged],
            failed=[*own.failed, *below.failed],
        )

    async def gc(self) -> int:
        """Collect garbage at all levels; return bytes freed."""
        return await super().gc() + await self._below.gc()
