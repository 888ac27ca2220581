"""What the store holds and for which versions: retention carried out, and room made under the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Set
from dataclasses import replace

from hotstart.wire.digests import sha256_id
from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index, version_order
from hotstart.wire.manifest import Manifest
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.retention import (
    KeptVersion,
    eviction_order,
    kept_versions,
    pin_excess,
    retired,
    victims,
)
from hotstart_proxy.stores.base import Store

from . import documents
from .answers import Pinned, PinRefused
from .pins import Pin, Pins
from .representations import kept_kinds, representations
from .settings import CacheSettings

__all__ = ["Holdings"]


class Holdings:
    """The kept versions of all models, from the documents in the store, and what follows from them.

    Several caches may share a store: what another one has kept is learned from the documents before anything
    is removed on the ground that nobody needs it, and what another one has pinned before anything is removed.
    """

    def __init__(
        self,
        store: Store,
        settings: CacheSettings,
        observer: Observer,
        in_use: Callable[[], Set[str]],
        give_way: Callable[[str], Awaitable[None]],
        note_use: Callable[[str], None],
    ) -> None:
        """Begin with nothing known.

        Args:
            store: whose blobs and documents these are.
            settings: which versions and kinds are kept.
            observer: told of evictions.
            in_use: gives the content ids that are open here; evicting them would free nothing yet.
            give_way: closes a blob that is open here for nobody who asked, before it is evicted.
            note_use: told of a model of which something is held that retires now: its next version is wanted.
        """
        self._store = store
        self._settings = settings
        self._observer = observer
        self._in_use = in_use
        self._give_way = give_way
        self._note_use = note_use
        self._pins = Pins(store)
        self._indexes: dict[str, Index] = {}
        # What the store has that is newer than what was last seen here: another cache on it has heard first.
        self._newer: dict[str, Index] = {}
        self._kept: dict[str, tuple[str, ...]] = {}
        self._versions: dict[str, dict[str, KeptVersion]] = {}
        # What a pin on a version holds: sizes by content id.
        self._pinnable: dict[tuple[str, str], Mapping[str, int]] = {}
        self._manifest_ids: dict[tuple[str, str], str] = {}
        self._replaced: dict[str, set[str]] = {}
        self._lock = asyncio.Lock()
        self._loaded = False

    def kept(self, model: str) -> tuple[str, ...]:
        """Return the versions of a model that are kept, oldest first; empty if its index is not known."""
        return self._kept.get(model, ())

    def pinned(self, model: str) -> frozenset[str]:
        """Return the versions of a model that are pinned, as last read."""
        return self._pins.versions(model)

    async def holds(self, model: str) -> bool:
        """Tell whether the store has a complete blob of a known version of a model.

        Raises:
            StoreError
        """
        async with self._lock:
            if not self._loaded:
                await self._load()
            if not self._holds_any(model):
                # A neighbour may have filled it.
                await self._store.refresh()
                await self._load(model)
            return self._holds_any(model)

    def _holds_any(self, model: str) -> bool:
        held = self._store.blobs().keys()
        return any(not held.isdisjoint(version.blobs) for version in self._versions.get(model, {}).values())

    def held_bytes(self) -> dict[str, dict[str, int]]:
        """Return how many bytes are held of each version whose blobs are known, where there are any."""
        sizes = self._store.blobs()
        found: dict[str, dict[str, int]] = {}
        for model, versions in self._versions.items():
            for version in versions.values():
                held = [sizes[blob] for blob in version.blobs if blob in sizes]
                if held:
                    found.setdefault(model, {})[version.version] = sum(held)
        return found

    def index_seen(self, index: Index) -> bool:
        """Take note of a model's index; tell whether other versions are kept than before."""
        self._indexes[index.model] = index
        return self._keep_anew(index.model)

    def _keep_anew(self, model: str) -> bool:
        index = self._indexes.get(model)
        if index is None:
            return False
        kept = self._kept_by(index)
        newer = self._newer.get(model)
        if newer is not None and _recency(newer) <= _recency(index):
            newer = None
            del self._newer[model]
        if newer is not None:
            # Until the origin has told us the same, nothing goes that either of the two keeps.
            entries = {entry.version: entry for entry in (*index.versions, *newer.versions)}
            both = {*kept, *self._kept_by(newer)}
            kept = tuple(sorted(both, key=lambda version: version_order(entries[version])))
        changed = self._kept.get(model) != kept
        self._kept[model] = kept
        return changed

    def _kept_by(self, index: Index) -> tuple[str, ...]:
        pinned = self._pins.versions(index.model)
        return kept_versions(index, self._settings.newest_of(index.model), pinned)

    def _stored_index_seen(self, index: Index) -> None:
        known = self._indexes.get(index.model)
        if known is None:
            self.index_seen(index)
        elif _recency(index) > _recency(known):
            self._newer[index.model] = index
            self._keep_anew(index.model)
        elif self._newer.pop(index.model, None) is not None:
            self._keep_anew(index.model)

    def manifest_seen(self, manifest: Manifest, manifest_id: str, published_at: int) -> bool:
        """Take note of a kept version's blobs; tell whether its manifest was not known."""
        key = (manifest.model, manifest.version)
        if self._manifest_ids.get(key) == manifest_id:
            return False
        self._manifest_ids[key] = manifest_id
        blobs = frozenset(item.id for item in representations(manifest))
        self._pinnable[key] = self._holds(manifest)
        versions = self._versions.setdefault(manifest.model, {})
        before = versions.get(manifest.version)
        if before is not None:
            # An adopted version whose objects were replaced has other blobs now.
            self._replaced.setdefault(manifest.model, set()).update(before.blobs - blobs)
        versions[manifest.version] = KeptVersion(manifest.model, manifest.version, published_at, blobs)
        return True

    def _holds(self, manifest: Manifest) -> dict[str, int]:
        return {item.id: item.size for item in kept_kinds(manifest, self._settings.keep)}

    def _pin_holds(self, pin: Pin) -> Mapping[str, int]:
        return self._pinnable.get((pin.model, pin.version), pin.blobs)

    def _live_pins(self) -> list[Pin]:
        """Return the pins on versions that have not been unpublished."""
        return [pin for pin in self._pins.all() if self._is_published(pin.model, pin.version)]

    def _is_published(self, model: str, version: str) -> bool:
        indexes = [seen[model] for seen in (self._indexes, self._newer) if model in seen]
        return not indexes or any(index.entry(version) is not None for index in indexes)

    def _all(self) -> list[KeptVersion]:
        """Return all kept versions whose blobs are known, with what the pins hold."""
        held_by_pins = {
            (pin.model, pin.version): frozenset(self._pin_holds(pin)) for pin in self._live_pins()
        }
        known = [
            replace(version, pinned=held_by_pins.pop((model, version.version), frozenset()))
            for model, versions in self._versions.items()
            for version in versions.values()
        ]
        # Of these the manifest is not here; their age does not matter, since they do not go.
        known += [KeptVersion(*name, 0, blobs, blobs) for name, blobs in held_by_pins.items()]
        return [
            version
            for version in known
            if version.model not in self._kept or version.version in self._kept[version.model]
        ]

    async def _learn(self) -> None:
        """Know what the documents say before anything is removed: all of them once, the pins each time."""
        if not self._loaded:
            await self._load()
        await self.read_pins()

    async def read_pins(self) -> None:
        """Read the pins anew, which other processes may have changed.

        Raises:
            StoreError
        """
        for model in await self._pins.refresh():
            self._keep_anew(model)

    async def _load(self, model: str | None = None) -> None:
        """Learn what the documents say, of one model or of all.

        A damaged one is removed, and fetched again when it is needed.
        """
        for name in await self._store.documents():
            place = documents.place_of(name)
            if place is None or place.kind not in (documents.Kind.INDEX, documents.Kind.MANIFEST):
                continue
            is_index = place.kind == documents.Kind.INDEX
            if model not in (None, place.model) or (
                not is_index and place.name in self._versions.get(place.model, {})
            ):
                continue
            data = await self._store.read_document(name)
            if data is None:
                continue
            try:
                if is_index:
                    self._stored_index_seen(await asyncio.to_thread(Index.parse, data))
                else:
                    manifest = await asyncio.to_thread(Manifest.parse, data)
                    self.manifest_seen(manifest, sha256_id(data), manifest.published_at)
            except FormatError:
                # An index that is known here is written again by whoever verifies the store.
                if not (is_index and place.model in self._indexes):
                    await self._store.delete_document(name)
        self._loaded = self._loaded or model is None

    async def retire(self, model: str) -> int:
        """Remove what only versions of model needed that are no longer kept or have changed; return bytes."""
        async with self._lock:
            await self._learn()
            await self._load(model)
            if model not in self._kept:
                return 0
            kept = self._kept[model]
            versions = self._versions.get(model, {})
            blobs = self._replaced.pop(model, set())
            for version in [version for version in versions if version not in kept]:
                blobs |= versions[version].blobs
                await self._forget(model, version)
            return await self._remove_retired(blobs & self._store.blobs().keys())

    async def _forget(self, model: str, version: str) -> None:
        if not self._store.blobs().keys().isdisjoint(self._versions[model].pop(version).blobs):
            self._note_use(model)
        self._manifest_ids.pop((model, version), None)
        self._pinnable.pop((model, version), None)
        await self._store.delete_document(documents.manifest_name(model, version))

    async def _remove_retired(self, blobs: Collection[str]) -> int:
        return sum([await self._remove(blob, "retired") for blob in retired(blobs, self._all())])

    async def _remove(self, blob: str, reason: str) -> int:
        size = self._store.blobs().get(blob, 0)
        await self._give_way(blob)
        if not await self._store.delete(blob):
            return 0
        self._observer.evicted(reason, size)
        return size

    async def committed(self, blob: str) -> None:
        """Remove a blob again whose version was retired while it was filled."""
        async with self._lock:
            await self._learn()
            await self._remove_retired([blob])

    async def evict(self, manifest: Manifest) -> int:
        """Remove the blobs of one version that no other kept version needs; return bytes freed.

        Raises:
            Pinned: a pin holds it.
            StoreError
        """
        async with self._lock:
            await self._learn()
            if self._pins.get(manifest.model, manifest.version) is not None:
                raise Pinned(f"{manifest.model}@{manifest.version}")
            others = [
                version
                for version in self._all()
                if (version.model, version.version) != (manifest.model, manifest.version)
            ]
            blobs = {item.id for item in representations(manifest)}
            held = self._store.blobs()
            return sum([await self._remove(blob, "asked") for blob in retired(blobs & held.keys(), others)])

    async def pin(self, manifest: Manifest, pinned_at: int) -> None:
        """Keep a version whatever retention and the budget say; nothing is fetched.

        Args:
            manifest: of the version.
            pinned_at: milliseconds since the epoch.

        Raises:
            PinRefused: what it would hold does not fit the budget beside what the other pins hold.
            StoreError
        """
        pin = Pin(manifest.model, manifest.version, pinned_at, self._holds(manifest))
        async with self._lock:
            await self._learn()
            if self._pins.get(pin.model, pin.version) is None:
                self._check_fits(pin)
                await self._pins.add(pin)
                # Another process may have pinned at the same moment.
                await self._pins.refresh()
                try:
                    self._check_fits(pin)
                except PinRefused:
                    await self._pins.remove(pin.model, pin.version)
                    raise
            self._keep_anew(pin.model)

    def _check_fits(self, pin: Pin) -> None:
        name = (pin.model, pin.version)
        others = [self._pin_holds(item) for item in self._live_pins() if (item.model, item.version) != name]
        budget_bytes = self._store.usage().budget_bytes
        if pin_excess(others, pin.blobs, budget_bytes):
            raise PinRefused(
                f"{pin.model}@{pin.version}",
                needed_bytes=sum(pin.blobs.values()),
                # Of others alone: by how much they exceed a budget of nothing.
                pinned_bytes=pin_excess(others, {}, 0),
                budget_bytes=budget_bytes,
            )

    async def unpin(self, model: str, version: str) -> bool:
        """Let a pin go; tell whether there was one. Its blobs are left to ``retire``.

        Raises:
            StoreError
        """
        async with self._lock:
            await self._learn()
            if self._pins.get(model, version) is None:
                return False
            await self._pins.remove(model, version)
            self._keep_anew(model)
            return True

    async def restore_pin(self, model: str, version: str, pinned_at: int) -> None:
        """Write a pin again whose document was damaged.

        Raises:
            StoreError
        """
        async with self._lock:
            holds = self._pinnable.get((model, version), {})
            await self._pins.add(Pin(model, version, pinned_at, holds))
            self._keep_anew(model)

    async def look_for_pin(self, model: str, version: str) -> bool:
        """Tell whether a version is kept because another process has pinned it.

        Raises:
            StoreError
        """
        if await self._pins.look(model, version):
            self._keep_anew(model)
        return version in self.kept(model)

    async def collect(self) -> int:
        """Remove all blobs that no kept version needs, and what exceeds the budget; return bytes freed."""
        async with self._lock:
            await self._load()
            await self._learn()
            for model in list(self._versions):
                await self._forget_retired(model)
            freed = await self._remove_retired(self._store.blobs())
            freed += await self._shrink()
            await self._forget_digests()
            return freed

    async def shrink(self) -> int:
        """Come as near to the budget as can be; return bytes freed.

        Raises:
            StoreError
        """
        async with self._lock:
            await self._learn()
            return await self._shrink()

    async def _shrink(self) -> int:
        """Come as near to the budget as can be: it may be lower than at the last start."""
        freed = 0
        for blob in eviction_order(self._store.blobs(), self._all()):
            usage = self._store.usage()
            if usage.used_bytes <= usage.budget_bytes:
                break
            if blob not in self._in_use():
                freed += await self._remove(blob, "budget")
        return freed

    async def _forget_digests(self) -> None:
        held = self._store.blobs()
        for name in await self._store.documents():
            match documents.place_of(name):
                case documents.Place(kind=documents.Kind.PIECES, name=blob) if blob not in held:
                    await self._store.delete_document(name)

    async def _forget_retired(self, model: str) -> None:
        if model not in self._kept:
            return
        for version in list(self._versions[model]):
            if version not in self._kept[model]:
                await self._forget(model, version)

    def evictable_bytes(self, spared: Set[str]) -> int:
        """Return how many bytes an eviction could free at most, if nothing is mapped."""
        held = self._store.blobs()
        passed_over = spared | self._in_use()
        return sum(held[blob] for blob in eviction_order(held, self._all()) if blob not in passed_over)

    async def make_room(self, needed_bytes: int, spared: Set[str]) -> bool:
        """Evict, oldest versions first, until needed_bytes are free; False if they cannot be.

        What is mapped by other processes, open here, or spared stays.
        """
        async with self._lock:
            await self._learn()
            return await self._free(needed_bytes, spared) >= needed_bytes

    async def _free(self, needed_bytes: int, spared: Set[str]) -> int:
        freed = 0
        passed_over = set(spared) | self._in_use()
        while freed < needed_bytes:
            chosen = victims(self._store.blobs(), self._all(), needed_bytes - freed, passed_over)
            if not chosen:
                break
            for blob in chosen:
                size = self._store.blobs().get(blob, 0)
                if await self._remove(blob, "budget") or blob not in self._store.blobs():
                    # Or another process was faster: removing one more for it would be too much.
                    freed += size
                else:
                    passed_over.add(blob)
        return freed


def _recency(index: Index) -> tuple[int, int]:
    """Return what rises with every publish: of an adopted model, which has no serial, its newest version."""
    return index.serial, index.versions[-1].published_at if index.versions else 0
