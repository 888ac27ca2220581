"""What the store holds and for which versions: retention carried out, and room made under the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Set

from hotstart.wire.digests import sha256_id
from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index
from hotstart.wire.manifest import Manifest
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.retention import KeptVersion, eviction_order, kept_versions, retired, victims
from hotstart_proxy.stores.base import Store

from . import documents

__all__ = ["Holdings"]


class Holdings:
    """The kept versions of all models, from the documents in the store, and what follows from them.

    Several caches may share a store: what another one has kept is learned from the documents before anything
    is removed on the ground that nobody needs it.
    """

    def __init__(
        self, store: Store, keep_versions: int, observer: Observer, in_use: Callable[[], Set[str]]
    ) -> None:
        """Begin with nothing known.

        Args:
            store: whose blobs and documents these are.
            keep_versions: newest versions of a model to keep.
            observer: told of evictions.
            in_use: gives the content ids that are open here; evicting them would free nothing yet.
        """
        self._store = store
        self._keep_versions = keep_versions
        self._observer = observer
        self._in_use = in_use
        self._kept: dict[str, tuple[str, ...]] = {}
        self._versions: dict[str, dict[str, KeptVersion]] = {}
        self._manifest_ids: dict[tuple[str, str], str] = {}
        self._replaced: dict[str, set[str]] = {}
        self._lock = asyncio.Lock()
        self._loaded = False

    def kept(self, model: str) -> tuple[str, ...]:
        """Return the versions of a model that are kept, oldest first; empty if its index is not known."""
        return self._kept.get(model, ())

    def index_seen(self, index: Index) -> bool:
        """Take note of a model's index; tell whether other versions are kept than before."""
        kept = kept_versions(index, self._keep_versions)
        changed = self._kept.get(index.model) != kept
        self._kept[index.model] = kept
        return changed

    def manifest_seen(self, manifest: Manifest, manifest_id: str, published_at: int) -> bool:
        """Take note of a kept version's blobs; tell whether its manifest was not known."""
        key = (manifest.model, manifest.version)
        if self._manifest_ids.get(key) == manifest_id:
            return False
        self._manifest_ids[key] = manifest_id
        blobs = frozenset(item.id for file in manifest.files for item in file.representations())
        versions = self._versions.setdefault(manifest.model, {})
        before = versions.get(manifest.version)
        if before is not None:
            # An adopted version whose objects were replaced has other blobs now.
            self._replaced.setdefault(manifest.model, set()).update(before.blobs - blobs)
        versions[manifest.version] = KeptVersion(manifest.model, manifest.version, published_at, blobs)
        return True

    def _all(self) -> list[KeptVersion]:
        return [
            version
            for model, versions in self._versions.items()
            for version in versions.values()
            if model not in self._kept or version.version in self._kept[model]
        ]

    async def _load(self) -> None:
        """Learn what the documents say; a damaged one is removed, and fetched again when it is needed."""
        for name in await self._store.documents():
            place = documents.place_of(name)
            if place is None or place.kind == documents.Kind.PIECES:
                continue
            data = await self._store.read_document(name)
            if data is None:
                continue
            try:
                if place.kind == documents.Kind.INDEX:
                    if place.model not in self._kept:
                        self.index_seen(await asyncio.to_thread(Index.parse, data))
                elif place.name not in self._versions.get(place.model, {}):
                    manifest = await asyncio.to_thread(Manifest.parse, data)
                    self.manifest_seen(manifest, sha256_id(data), manifest.published_at)
            except FormatError:
                await self._store.delete_document(name)
        self._loaded = True

    async def retire(self, model: str) -> int:
        """Remove what only versions of model needed that are no longer kept or have changed; return bytes."""
        async with self._lock:
            if not self._loaded:
                await self._load()
            kept = self._kept.get(model, ())
            versions = self._versions.get(model, {})
            blobs = self._replaced.pop(model, set())
            for version in [version for version in versions if version not in kept]:
                blobs |= versions[version].blobs
                await self._forget(model, version)
            return await self._remove_retired(blobs & self._store.blobs().keys())

    async def _forget(self, model: str, version: str) -> None:
        del self._versions[model][version]
        self._manifest_ids.pop((model, version), None)
        await self._store.delete_document(documents.manifest_name(model, version))

    async def _remove_retired(self, blobs: Collection[str]) -> int:
        return sum([await self._remove(blob, "retired") for blob in retired(blobs, self._all())])

    async def _remove(self, blob: str, reason: str) -> int:
        size = self._store.blobs().get(blob, 0)
        if not await self._store.delete(blob):
            return 0
        self._observer.evicted(reason, size)
        return size

    async def committed(self, blob: str) -> None:
        """Remove a blob again whose version was retired while it was filled."""
        async with self._lock:
            if not self._loaded:
                await self._load()
            await self._remove_retired([blob])

    async def evict(self, manifest: Manifest) -> int:
        """Remove the blobs of one version that no other kept version needs; return bytes freed."""
        async with self._lock:
            if not self._loaded:
                await self._load()
            others = [
                version
                for version in self._all()
                if (version.model, version.version) != (manifest.model, manifest.version)
            ]
            blobs = {item.id for file in manifest.files for item in file.representations()}
            held = self._store.blobs()
            return sum([await self._remove(blob, "asked") for blob in retired(blobs & held.keys(), others)])

    async def collect(self) -> int:
        """Remove all blobs that no kept version needs, and what exceeds the budget; return bytes freed."""
        async with self._lock:
            await self._load()
            for model in list(self._versions):
                await self._forget_retired(model)
            freed = await self._remove_retired(self._store.blobs())
            freed += await self._shrink()
            await self._forget_digests()
            return freed

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
        passed_over = spared | self._in_use()
        return sum(size for blob, size in self._store.blobs().items() if blob not in passed_over)

    async def make_room(self, needed_bytes: int, spared: Set[str]) -> bool:
        """Evict, oldest versions first, until needed_bytes are free; False if they cannot be.

        What is mapped by other processes, open here, or spared stays.
        """
        async with self._lock:
            if not self._loaded:
                await self._load()
            return await self._free(needed_bytes, spared) >= needed_bytes

    async def _free(self, needed_bytes: int, spared: Set[str]) -> int:
        freed = 0
        passed_over = set(spared) | self._in_use()
        while freed < needed_bytes:
            chosen = victims(self._store.blobs(), self._all(), needed_bytes - freed, passed_over)
            if not chosen:
                break
            for blob in chosen:
                removed = await self._remove(blob, "budget")
                freed += removed
                if not removed:
                    passed_over.add(blob)
        return freed
