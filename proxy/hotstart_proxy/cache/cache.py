"""The cache: resolves references, and answers with bytes of the store, of a fill, or of the origin."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence, Set
from typing import Any

from hotstart.wire import documents as json_documents
from hotstart.wire.errors import FormatError, HotstartError, IntegrityError
from hotstart.wire.index import Index
from hotstart.wire.manifest import Representation, dump_pieces
from hotstart.wire.opening import Fallback
from hotstart.wire.pieces import Pieces
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import Reference
from hotstart_proxy.core.breaker import Circuit, Phase
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.scrub import VERIFY_PACE
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.base import ObjectChanged, OriginError, OriginPaused
from hotstart_proxy.origins.models import ModelOrigin, VersionBlob
from hotstart_proxy.stores.base import Blob, Store, StoreError, Usage, Vanished
from hotstart_proxy.telemetry.load import Load

from . import documents
from .answers import Body, CacheState, NotFound, NotKept, Redirect, Resolved
from .bodies import FillBody, HitBody, Onward, PassedBody, Tally
from .condition import Condition
from .fills import Fill
from .holdings import Holdings
from .indexes import Indexes
from .manifests import KnownManifest, Manifests
from .passthrough import PassThrough
from .registry import Fills
from .representations import kept_kinds, representations
from .scrub import Scrub
from .settings import CacheSettings
from .uses import StoreView, Uses
from .verification import Verification, Verifier

__all__ = ["Cache"]

# A version that the index does not name may have been published a moment ago: the index is asked for again,
# but not more often than this.
_UNKNOWN_MAX_AGE_SECONDS = 1.0
_WARM_AT_ONCE = 4
# How often one reader may come upon something that the store has lost before it is left alone with the
# origin: a store that loses faster than it is filled must not hold a reader up for ever.
_MOST_TRIES = 16
# How late a partial fill may be dropped; its time to live is counted in days or hours.
_HOUSEKEEPING_SECONDS = 1800.0
# A model that nothing is held of, and that nobody has asked for in so long, need not be here when it is new.
_USED_OF_LATE_SECONDS = 3600.0


class Cache:
    """One proxy's cache, for the tasks of one event loop; use as an async context manager.

    Origin and store are the caller's, entered before and left after. Cancelling a call never harms another
    caller: what several wait for is done by tasks of the cache's own.
    """

    def __init__(
        self,
        origin: ModelOrigin,
        store: Store,
        settings: CacheSettings,
        observer: Observer,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Put a cache together; nothing is read before it is entered.

        Args:
            origin: where the truth is.
            store: where the copies are.
            settings: see there.
            observer: told of events.
            now: seconds since the epoch.
        """
        self._origin = origin
        self._store = store
        self._settings = settings
        self._observer = observer
        self._condition = Condition(observer, lambda: store.trouble)
        self._indexes = Indexes(
            origin,
            store,
            settings.alias_ttl_seconds,
            now,
            self._condition,
            self._index_seen,
            self._keep_index,
            self._model_gone,
        )
        self._manifests = Manifests(origin, store, now, self._condition)
        self._now = now
        self._verifier = Verifier(store, observer, self._refill, self._restore)
        self._holdings = Holdings(
            store, settings, observer, self._open_ids, self._verifier.give_way, self._note_use
        )
        self._fills = Fills(
            origin,
            store,
            observer,
            settings.fill_connections,
            settings.idle_fill_seconds,
            self._free_space,
            self._origin_failed,
            self._fill_ended,
            self._fill_closed,
        )
        self._passthrough = PassThrough(origin, observer, self._origin_failed)
        self._uses = Uses(time.monotonic)
        self._open: Counter[str] = Counter()
        self._bodies = Tally()
        self._index_watchers: list[Callable[[Index | None, Index], None]] = []
        # When readers last asked for each model, by the clock of now.
        self._used: dict[str, float] = {}
        self._writing = asyncio.Lock()
        self._standing: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_leaving = False

    async def __aenter__(self) -> Cache:
        try:
            await self._holdings.read_pins()
        except StoreError as error:
            self._condition.store_failed(error)
        standing = [self._keep_house()]
        interval = self._settings.scrub_interval_seconds
        if interval:
            failed = self._condition.store_failed
            standing.append(Scrub(self._store, self._verifier, interval, self._now, failed).run())
        for work in standing:
            task = asyncio.create_task(work)
            task.add_done_callback(self._task_ended)
            self._standing.append(task)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_leaving = True
        await self._indexes.close()
        await self._manifests.close()
        await self._passthrough.close()
        await self._fills.close()
        for task in self._standing:
            task.cancel()
        await asyncio.gather(*self._standing, return_exceptions=True)
        self._verifier.close()
        # Small writes and removals under way, each a moment's work.
        while self._tasks:
            await asyncio.wait(self._tasks)

    # What there is

    def stores(self) -> tuple[StoreView, ...]:
        """Return what the store holds of which versions, and how they were used by this process."""
        usage, versions = self._store.usage(), self._holdings.held_bytes()
        models = {
            model: {
                version: self._uses.view(
                    model, version, count, is_pinned=version in self._holdings.pinned(model)
                )
                for version, count in held.items()
            }
            for model, held in sorted(versions.items())
        }
        return (StoreView(self._store.url, usage.used_bytes, usage.budget_bytes, models),)

    async def models(self, max_age_seconds: float | None = None) -> tuple[str, ...]:
        """Return all models; while the origin is away, those known here.

        Args:
            max_age_seconds: the origin is asked again where the list is older; None for the ttl.

        Raises:
            OriginError: nothing is known and the origin did not say.
        """
        return await self._indexes.names(max_age_seconds)

    async def index(self, model: str, max_age_seconds: float | None = None) -> Index:
        """Return a model's index, served stale while the origin is away.

        Args:
            model: two segments.
            max_age_seconds: the origin is asked again where the index is older; None for the ttl.

        Raises:
            NotFound: there is no such model.
            OriginError, FormatError: nothing is known and the origin did not say.
        """
        return await self._indexes.get(model, max_age_seconds)

    async def resolve(self, reference: Reference, *, for_reader: bool = True) -> Resolved:
        """Resolve a reference to one version, and check that it has the file that is named.

        Args:
            reference: what is asked for.
            for_reader: somebody asks, so that the model's new versions are worth being here.

        Raises:
            NotFound: the origin was asked, and there is no such model, version or file.
            OriginError, FormatError: it is not known and the origin did not say.
        """
        index = await self._indexes.get(reference.model)
        if for_reader:
            self._note_use(reference.model)
        version = index.resolve(reference.selector)
        if version is None:
            index = await self._indexes.get(reference.model, _UNKNOWN_MAX_AGE_SECONDS)
            version = index.resolve(reference.selector)
        entry = None if version is None else index.entry(version)
        if version is None or entry is None:
            known = (*sorted(index.aliases), *(entry.version for entry in reversed(index.versions[-5:])))
            name = Reference(reference.model, reference.selector)
            raise NotFound("version", str(name), tuple(f"@{name}" for name in known))
        kept = await self._is_kept(reference.model, version)
        found = await self._manifests.get(reference.model, entry, keep=kept)
        if kept and self._holdings.manifest_seen(found.manifest, found.id, entry.published_at):
            self._keep_manifest(found)
        if reference.file is not None and found.manifest.representation(reference.file) is None:
            paths = [file.path for file in found.manifest.files[:5]]
            raise NotFound("file", str(Reference(reference.model, version, reference.file)), tuple(paths))
        return Resolved(
            manifest=found.manifest,
            manifest_bytes=found.data,
            manifest_id=found.id,
            published_at=entry.published_at,
            by_alias=reference.selector != version,
            kept=kept,
        )

    async def _is_kept(self, model: str, version: str) -> bool:
        if version in self._holdings.kept(model):
            return True
        try:
            return await self._holdings.look_for_pin(model, version)
        except StoreError as error:
            self._condition.store_failed(error)
            return False

    def kept_versions(self, model: str) -> tuple[str, ...]:
        """Return the versions of a model that are kept, oldest first; empty if its index was never seen."""
        return self._holdings.kept(model)

    def cached(self, resolved: Resolved) -> dict[str, int]:
        """Return how many bytes of each representation are held, by its path; none where nothing is."""
        held = self._store.blobs()
        result: dict[str, int] = {}
        for item in _representations(resolved):
            fill = self._fills.get(item.id)
            if item.id in held:
                result[item.path] = held[item.id]
            elif fill is not None and (count := fill.done_bytes()):
                result[item.path] = count
        return result

    def state(self) -> CacheState:
        """Return how the cache is, from what it has met."""
        condition = self._condition
        can_serve = not condition.origin_away or bool(self._store.blobs())
        return CacheState(can_serve, condition.look())

    def usage(self) -> Usage:
        """Return the store's sums."""
        return self._store.usage()

    @property
    def store_kind(self) -> str:
        """Return what the store is, for metrics: ``disk`` or ``redis``."""
        scheme = self._store.url.partition(":")[0]
        return "redis" if scheme.startswith("redis") else scheme

    @property
    def store_is_up(self) -> bool:
        """Tell whether all of the store works, as far as it knows."""
        return self._store.trouble is None

    def versions_held(self) -> int:
        """Return of how many versions something is in the store."""
        return sum(len(versions) for versions in self._holdings.held_bytes().values())

    def load(self) -> Load:
        """Return what is in hand at this moment."""
        passed, filled = self._passthrough.load(), self._fills.load()
        return dataclasses.replace(
            filled,
            bodies=self._bodies.open,
            passes=passed.passes,
            passes_waiting=passed.passes_waiting,
            reserved_bytes=filled.reserved_bytes + passed.reserved_bytes,
        )

    # What fills versions before anyone asks needs to know

    def watch_indexes(self, told: Callable[[Index | None, Index], None]) -> None:
        """Tell of every index that is new, and of the one before it, None where nothing was known.

        What is told of is not yet among the documents of the store.
        """
        self._index_watchers.append(told)

    async def poll(self, model: str) -> Index | None:
        """Ask the origin for a model's index, however old the one here is; None if there is no such model.

        Raises:
            OriginError, FormatError: it did not say.
        """
        return await self._indexes.poll(model)

    async def known_index(self, model: str) -> Index | None:
        """Return a model's index as last seen, by this process or an earlier one."""
        return await self._indexes.load(model)

    async def in_use(self, model: str) -> bool:
        """Tell whether a model is held, or was until it retired of late, or a reader asked for it of late."""
        holds = await self._holdings.holds(model)
        age = self._now() - self._used.get(model, float("-inf"))
        return holds or age < _USED_OF_LATE_SECONDS

    def _note_use(self, model: str) -> None:
        self._used[model] = self._now()

    def warm_bytes(self, resolved: Resolved) -> tuple[int, int]:
        """Return how many bytes warming fills of a version, and how many of them are not held yet."""
        sizes = {item.id: item.size for item in kept_kinds(resolved.manifest, self._settings.keep)}
        held = self._store.blobs()
        return sum(sizes.values()), sum(size for item, size in sizes.items() if held.get(item) != size)

    def keep_document(self, name: str, data: bytes) -> None:
        """Write a document in the background, after those that were given before it."""
        self._spawn(self._write(name, data))

    def drop_document(self, name: str) -> None:
        """Remove a document in the background, after those before it were written."""
        self._spawn(self._remove(name))

    def note(self, subject: str, degraded: tuple[str, ...]) -> None:
        """Count among what does not work what somebody else has found; empty when that works."""
        self._condition.note(subject, degraded)

    # Bytes

    async def read(
        self,
        resolved: Resolved,
        representation: Representation,
        wanted: ByteRange,
        *,
        may_redirect: bool,
        tier: Tier = Tier.STANDARD,
    ) -> Body | Redirect:
        """Answer with bytes of one representation; the caller closes the body.

        Args:
            resolved: the version.
            representation: one of its manifest's.
            wanted: within the representation.
            may_redirect: the reader follows a redirect to a pre-signed URL.
            tier: the reader's.

        Raises:
            OriginError, CacheClosed: neither a fill nor the origin can give the bytes. Later errors come out
                of the body.
        """
        answer = await self._read(resolved, representation, wanted, tier, may_redirect=may_redirect)
        self._observer.read_answered(resolved.manifest.model, tier.name.lower(), answer.outcome.value)
        if isinstance(answer, Redirect):
            self._observer.redirected(resolved.manifest.model, len(wanted))
        return answer

    async def _read(
        self,
        resolved: Resolved,
        representation: Representation,
        wanted: ByteRange,
        tier: Tier,
        *,
        may_redirect: bool,
        tries: int = _MOST_TRIES,
    ) -> Body | Redirect:
        model = resolved.manifest.model
        sought = VersionBlob(model, resolved.manifest.version, representation)
        # Nobody is sent far away for what the next level has.
        may_redirect = may_redirect and not self._origin.is_near(sought, wanted)

        async def again(rest: ByteRange) -> Body:
            if not tries:
                return PassedBody(sought, rest, tier, self._passthrough, self._observer, self._bodies)
            body = await self._read(resolved, representation, rest, tier, may_redirect=False, tries=tries - 1)
            assert isinstance(body, Body)
            return body

        def failed(error: StoreError) -> None:
            if isinstance(error, Vanished):
                self._observer.healed(model)
            self._condition.store_failed(error)

        onward = Onward(sought, tier, self._passthrough, again, failed)
        try:
            while True:
                blob = await self._open_blob(model, representation)
                if blob is not None:
                    self._uses.read(model, sought.version, is_hit=True)
                    return HitBody(
                        blob, wanted, self.store_kind, self._closed, onward, self._observer, self._bodies
                    )
                self._uses.read(model, sought.version, is_hit=False)
                circuit = self.circuit(sought, wanted)
                if circuit.refuses:
                    return await self._read_elsewhere(sought, circuit, may_redirect=may_redirect)
                if not resolved.kept and self._fills.get(representation.id) is None:
                    break
                spared = frozenset(item.id for item in _representations(resolved))
                reader = await self._fills.join(sought, wanted, spared, tier)
                if reader is None:
                    continue
                body = FillBody(reader, onward, self._observer, self._bodies)
                # Whoever can go to the origin does not wait for what the probe shows; its fill is the probe.
                redirects = self._settings.on_miss == "redirect" or circuit.phase is Phase.DUE
                if redirects and may_redirect and not reader.fill.has(wanted):
                    redirect = await self._redirect_from(body, sought)
                    if redirect is not None:
                        return redirect
                return body
        except StoreError as error:
            self._condition.store_failed(error)
        redirect = await self._redirect(sought) if may_redirect else None
        if redirect is not None:
            return redirect
        return PassedBody(sought, wanted, tier, self._passthrough, self._observer, self._bodies)

    async def redirect(
        self, resolved: Resolved, representation: Representation, wanted: ByteRange, tier: Tier
    ) -> Redirect | None:
        """Send a reader to the origin whatever is here; None where the origin cannot pre-sign."""
        manifest = resolved.manifest
        redirect = await self._redirect(VersionBlob(manifest.model, manifest.version, representation))
        if redirect is not None:
            self._observer.read_answered(manifest.model, tier.name.lower(), redirect.outcome.value)
            self._observer.redirected(manifest.model, len(wanted))
        return redirect

    def circuit(self, sought: VersionBlob, wanted: ByteRange) -> Circuit:
        """Tell how a read of these bytes would fare now: well, if they are here or the origin answers."""
        return Circuit() if self.has(sought, wanted) else self._origin.circuit(sought, wanted)

    def has(self, sought: VersionBlob, wanted: ByteRange) -> bool:
        """Tell whether these bytes are here, from memory, or at a level below."""
        item = sought.representation
        fill = self._fills.get(item.id)
        return (
            self._store.blobs().get(item.id) == item.size
            or (fill is not None and fill.has(wanted))
            or self._origin.is_near(sought, wanted)
        )

    async def _read_elsewhere(self, sought: VersionBlob, circuit: Circuit, *, may_redirect: bool) -> Redirect:
        """Answer at once while the origin is left alone.

        Raises:
            OriginPaused: the reader cannot be redirected.
        """
        redirect = await self._redirect(sought) if may_redirect else None
        if redirect is None:
            doing = f"reading {sought.representation.path}"
            raise OriginPaused(self._origin.url, doing, circuit.failures, circuit.retry_after_seconds)
        return redirect

    async def _redirect_from(self, body: Body, sought: VersionBlob) -> Redirect | None:
        """Redirect instead of giving a body, which is closed then; its fill goes on with what was asked."""
        redirect = None
        try:
            redirect = await self._redirect(sought)
        except BaseException:
            await body.close()
            raise
        if redirect is not None:
            await body.close()
        return redirect

    async def _open_blob(self, model: str, representation: Representation) -> Blob | None:
        blob = await self._store.open_blob(representation.id)
        if blob is None:
            return None
        if blob.size == representation.size:
            self._open[blob.id] += 1
            return blob
        await blob.close()
        self._observer.healed(model)
        await self._store.delete(representation.id)
        return None

    async def quarantine(self, sought: VersionBlob) -> None:
        """Take a stored blob out of use that was found to be damaged; it is filled again when it is needed.

        Raises:
            StoreError
        """
        if await self._store.quarantine(sought.representation.id):
            self._observer.healed(sought.model)

    def _closed(self, content_id: str) -> None:
        self._open[content_id] -= 1
        if not self._open[content_id]:
            del self._open[content_id]

    def _open_ids(self) -> Set[str]:
        return self._open.keys()

    async def _redirect(self, sought: VersionBlob) -> Redirect | None:
        signed = await self.presign([sought], self._settings.presign_seconds)
        if signed is None:
            return None
        return Redirect(signed.urls[sought.representation.path])

    @property
    def can_presign(self) -> bool:
        """Tell whether the origin is of a kind that can pre-sign."""
        return self._origin.can_presign

    async def presign(self, blobs: Sequence[VersionBlob], expires_in_seconds: int) -> Fallback | None:
        """Pre-sign URLs of blobs of one version, by path; None where the origin cannot, or not now."""
        if not self._origin.can_presign or not blobs:
            return None
        try:
            return await self._origin.presign(blobs, expires_in_seconds)
        except OriginError as error:
            self._condition.origin_failed(error)
            return None

    async def fallback(self, resolved: Resolved, expires_in_seconds: int) -> Fallback | None:
        """Pre-sign URLs of all representations of a version; None where the origin cannot.

        Args:
            resolved: the version.
            expires_in_seconds: asked for; what is given may be less.
        """
        manifest = resolved.manifest
        blobs = [VersionBlob(manifest.model, manifest.version, item) for item in _representations(resolved)]
        return await self.presign(blobs, expires_in_seconds)

    # What an operator asks for

    async def warm(self, resolved: Resolved) -> None:
        """Fill what the settings say is kept warm of a version; return when it is there.

        Raises:
            NotKept: retention has retired the version.
            OriginError, StoreError, IntegrityError, CacheClosed: the first fill that failed.
        """
        manifest = resolved.manifest
        if not resolved.kept:
            raise NotKept(f"{manifest.model}@{manifest.version}")
        turns = asyncio.Semaphore(_WARM_AT_ONCE)

        async def fill(item: Representation) -> None:
            async with turns:
                await self._warm_one(VersionBlob(manifest.model, manifest.version, item), spared)

        wanted = kept_kinds(manifest, self._settings.keep)
        spared = frozenset(item.id for item in wanted)
        results = await asyncio.gather(*(fill(item) for item in wanted), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _warm_one(self, sought: VersionBlob, spared: Set[str]) -> None:
        model, item = sought.model, sought.representation
        while True:
            blob = await self._open_blob(model, item)
            if blob is not None:
                await blob.close()
                self._closed(blob.id)
                return
            reader = await self._fills.join(sought, ByteRange(0, item.size), spared, Tier.WARMING)
            if reader is None:
                continue
            try:
                await reader.arrived()
                await reader.fill.settled()
                if reader.fill.error is not None:
                    raise reader.fill.error
                return
            finally:
                await reader.close()

    async def evict(self, resolved: Resolved) -> int:
        """Remove what is held of a version and needed by no other kept one; return bytes freed.

        Raises:
            Pinned: it is pinned.
            StoreError
        """
        freed = await self._holdings.evict(resolved.manifest)
        ids = frozenset(item.id for item in _representations(resolved))
        return freed + await self._fills.discard_idle(ids)

    async def pin(self, resolved: Resolved) -> Resolved:
        """Keep what the settings say is kept warm of a version, until it is unpinned; nothing is fetched.

        Returns:
            The version, which is kept now.

        Raises:
            PinRefused: it does not fit the budget beside the other pins.
            StoreError
        """
        manifest = resolved.manifest
        await self._holdings.pin(manifest, int(self._now() * 1000))
        return await self.resolve(Reference(manifest.model, manifest.version))

    async def unpin(self, model: str, version: str) -> bool:
        """Let a version go the way of others; tell whether it was pinned, by whichever process.

        Raises:
            StoreError
        """
        was_pinned = await self._holdings.unpin(model, version)
        await self._holdings.retire(model)
        # The budget may have been lowered under what was pinned.
        await self._holdings.shrink()
        return was_pinned

    def kept_bytes(self, resolved: Resolved) -> dict[str, int]:
        """Return the sizes of what warming fills and a pin holds of a version, by path."""
        return {item.path: item.size for item in kept_kinds(resolved.manifest, self._settings.keep)}

    def pinned_versions(self, model: str) -> frozenset[str]:
        """Return the versions of a model that are pinned, as last read."""
        return self._holdings.pinned(model)

    async def gc(self) -> int:
        """Remove what retention, the budget and the life of partial fills do not allow; return bytes freed.

        Raises:
            StoreError
        """
        return await self._collect()

    async def _collect(self) -> int:
        await self._fills.let_go_idle()
        freed = await self._store.drop_partials(self._settings.partial_ttl_seconds)
        return freed + await self._holdings.collect()

    async def verify(self) -> Verification:
        """Compare all that the store holds with its digests; what is damaged is fetched again.

        Raises:
            StoreError
        """
        return await self._verifier.verify(VERIFY_PACE)

    def _refill(self, model: str, version: str, path: str) -> bool:
        """Begin to fetch a representation that was held, if its version is still kept."""
        if version not in self._holdings.kept(model):
            return False
        self._spawn(self._refill_one(Reference(model, version), path))
        return True

    async def _refill_one(self, reference: Reference, path: str) -> None:
        # Whoever fails at it, origin or store, is told of by the fill; the next reader tries again.
        with contextlib.suppress(HotstartError):
            resolved = await self.resolve(reference)
            item = resolved.manifest.representation(path)
            if item is not None and resolved.kept:
                spared = frozenset(other.id for other in _representations(resolved))
                await self._warm_one(VersionBlob(reference.model, resolved.manifest.version, item), spared)

    async def _restore(self, place: documents.Place) -> bool:
        """Write a document again that was removed for being damaged; False where it cannot be had."""
        try:
            match place.kind:
                case documents.Kind.INDEX:
                    data = (await self._indexes.get(place.model)).dump()
                    await self._write(documents.index_name(place.model), data)
                case documents.Kind.MANIFEST:
                    resolved = await self.resolve(Reference(place.model, place.name))
                    name = documents.manifest_name(place.model, place.name)
                    if resolved.kept:
                        await self._write(name, resolved.manifest_bytes)
                    return resolved.kept
                case documents.Kind.PIN:
                    await self._holdings.restore_pin(place.model, place.name, int(self._now() * 1000))
                case documents.Kind.PIECES:
                    return False
        except (NotFound, OriginError, FormatError):
            return False
        return True

    async def _keep_house(self) -> None:
        while True:
            try:
                await self._collect()
            except StoreError as error:
                self._condition.store_failed(error)
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)

    # What follows from events

    def _index_seen(self, before: Index | None, index: Index) -> None:
        self._observer.aliases_seen(index.model, _aliases(index))
        kept_changed = self._holdings.index_seen(index)
        for told in self._index_watchers:
            told(before, index)
        if kept_changed:
            self._spawn(self._holdings.retire(index.model))

    def _model_gone(self, model: str) -> None:
        self._observer.aliases_seen(model, {})

    def _keep_index(self, index: Index) -> None:
        self._spawn(self._write(documents.index_name(index.model), index.dump()))

    def _keep_manifest(self, found: KnownManifest) -> None:
        model, version = found.manifest.model, found.manifest.version
        self._spawn(self._write(documents.manifest_name(model, version), found.data))
        # An adopted version whose objects were replaced leaves blobs that nobody needs.
        self._spawn(self._holdings.retire(model))

    async def _write(self, name: str, data: bytes) -> None:
        # In the background, since readers need not wait for it to be durable; one at a time, so that an
        # older one never overtakes a newer.
        async with self._writing:
            await self._store.write_document(name, data)

    async def _remove(self, name: str) -> None:
        async with self._writing:
            await self._store.delete_document(name)

    async def _free_space(self, size: int, spared: Set[str]) -> bool:
        """Make room for a blob of size bytes: partial blobs that nobody reads go first, then old versions.

        Nothing goes where all of it would not be enough.
        """

        usage = self._store.usage()
        lacking = usage.used_bytes + size - usage.budget_bytes
        # Within the budget, yet refused: the filesystem itself is full, and only its own bytes can help.
        target = lacking if lacking > 0 else size
        partials = usage.used_bytes - sum(self._store.blobs().values()) - self._fills.busy_bytes()
        if target > partials + self._holdings.evictable_bytes(spared):
            return False
        freed = await self._fills.discard_idle()
        if freed < target:
            freed += await self._store.drop_partials(0)
        if freed < target:
            return await self._holdings.make_room(target - freed, spared)
        return True

    def _origin_failed(self, model: str, error: OriginError) -> None:
        if isinstance(error, ObjectChanged):
            self._indexes.distrust(model)
        else:
            self._condition.origin_failed(error)

    def _fill_ended(self, fill: Fill, error: HotstartError | None) -> None:
        match error:
            case None:
                self._condition.store_worked()
                self._spawn(self._after_commit(fill))
            case OriginError():
                self._origin_failed(fill.blob.model, error)
            case StoreError():
                self._condition.store_failed(error)
            case IntegrityError():
                pass

    async def _after_commit(self, fill: Fill) -> None:
        item = fill.representation
        if item.pieces is None:
            learned = Pieces(tuple(fill.partial.crc32), b"")
            data = json_documents.dump_json({"id": item.id, "pieces": dump_pieces(learned)})
            await self._write(documents.pieces_name(fill.blob.model, item.id), data)
        self._uses.filled(fill.blob.model, fill.blob.version)

    def _fill_closed(self, fill: Fill) -> None:
        # Not earlier: a blob stays as long as its fill is read.
        if fill.error is None and not self._is_leaving:
            self._spawn(self._holdings.committed(fill.representation.id))

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StoreError):
            self._condition.store_failed(error)
        elif error is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "work of the cache in the background failed", "exception": error, "task": task}
            )


def _representations(resolved: Resolved) -> list[Representation]:
    return representations(resolved.manifest)


def _aliases(index: Index) -> dict[str, str]:
    latest = index.latest()
    return dict(index.aliases) if latest is None else {**index.aliases, "latest": latest}
