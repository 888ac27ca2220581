"""Manifests: asked for once, kept in memory, and read back from the store where they are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from hotstart.wire.digests import sha256_id
from hotstart.wire.errors import FormatError
from hotstart.wire.index import IndexEntry
from hotstart.wire.manifest import Manifest
from hotstart_proxy.origins.base import OriginError
from hotstart_proxy.origins.models import ModelOrigin
from hotstart_proxy.stores.base import Store, StoreError

from . import documents
from .answers import NotFound
from .condition import Condition
from .flights import Flights

__all__ = ["KnownManifest", "Manifests"]

# A manifest of 15 GB is 100 KB, and five times that once parsed.
_MOST_IN_MEMORY = 128


@dataclass(frozen=True, slots=True)
class KnownManifest:
    """A manifest, its exact bytes and their sha256."""

    manifest: Manifest
    data: bytes
    id: str


class Manifests:
    """One cache's manifests."""

    def __init__(
        self,
        origin: ModelOrigin,
        store: Store,
        now: Callable[[], float],
        condition: Condition,
    ) -> None:
        self._origin = origin
        self._store = store
        self._now = now
        self._condition = condition
        # The one used last stands last.
        self._memory: dict[tuple[str, str], KnownManifest] = {}
        self._flights: Flights[tuple[str, str, str | None], KnownManifest] = Flights()

    async def get(self, model: str, entry: IndexEntry, *, keep: bool) -> KnownManifest:
        """Return the manifest of a version as its index entry announces it.

        Args:
            model: two segments.
            entry: of the version; its manifest_id, where there is one, tells an outdated copy.
            keep: the version is kept, so its manifest may be in the store.

        Raises:
            NotFound: the origin has no such version.
            OriginError, FormatError: it is not known and the origin did not say.
        """
        key = (model, entry.version)
        known = self._memory.get(key)
        if known is None or not _is_current(known, entry):
            known = await self._flights.run(
                (*key, entry.manifest_id), lambda: self._find(model, entry, known, keep=keep)
            )
        self._memory.pop(key, None)
        self._memory[key] = known
        while len(self._memory) > _MOST_IN_MEMORY:
            del self._memory[next(iter(self._memory))]
        return known

    async def _find(
        self, model: str, entry: IndexEntry, stale: KnownManifest | None, *, keep: bool
    ) -> KnownManifest:
        if keep:
            kept = await self._read(model, entry.version)
            if kept is not None and _is_current(kept, entry):
                return kept
            stale = stale or kept
        try:
            data = await self._origin.manifest(model, entry.version, int(self._now() * 1000))
        except OriginError as error:
            self._condition.origin_failed(error)
            if stale is not None:
                return stale
            raise
        self._condition.origin_answered()
        if data is None:
            raise NotFound("version", f"{model}@{entry.version}")
        return await _parse(model, entry.version, data)

    async def _read(self, model: str, version: str) -> KnownManifest | None:
        name = documents.manifest_name(model, version)
        try:
            data = await self._store.read_document(name)
            return None if data is None else await _parse(model, version, data)
        except StoreError as error:
            self._condition.store_failed(error)
        except FormatError:
            await self._store.delete_document(name)
        return None

    async def close(self) -> None:
        """Ask for nothing more."""
        await self._flights.close()


def _is_current(known: KnownManifest, entry: IndexEntry) -> bool:
    # Without an announced id it is an old version's, which is published and so never changes.
    return entry.manifest_id is None or entry.manifest_id == known.id


async def _parse(model: str, version: str, data: bytes) -> KnownManifest:
    manifest = await asyncio.to_thread(Manifest.parse, data)
    if (manifest.model, manifest.version) != (model, version):
        raise FormatError(
            "manifest", f"it is of {manifest.model}@{manifest.version}: expected {model}@{version}"
        )
    return KnownManifest(manifest, data, sha256_id(data))
