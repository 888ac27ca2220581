"""What a test of the cache works with, whatever the stores are, and the stores that there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotstart.wire.adoption import Layout
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.levels import LeveledCache
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.core.observer import NullObserver
from hotstart_proxy.origins.tree import TreeOrigin
from hotstart_proxy.stores.base import Store
from hotstart_proxy.stores.disk import DiskStore
from hotstart_proxy.stores.redis import RedisStore
from hotstart_proxy.stores.redis_keys import blob_key, model_key
from hotstart_proxy.stores.redis_urls import parse_redis_url
from tests.integration.cache.conftest import Clock, Events
from tests.integration.cache.fault_origin import FaultOrigin
from tests.integration.cache.published_tree import PublishedTree

__all__ = ["Backing", "Bench", "DiskBacking", "LevelsBacking", "RedisBacking"]

# As much as a test fills, many times over; a real default depends on the machine.
_BUDGET_BYTES = 1 << 30


class Backing(ABC):
    """The stores under a cache, and hooks that reach around it. With several, the hooks reach the first.

    Attributes:
        copies: how many stores keep what is read.
    """

    copies = 1

    @abstractmethod
    def open(
        self, bench: Bench, settings: CacheSettings, budget_bytes: int | None
    ) -> AbstractAsyncContextManager[Cache]:
        """Open a cache on them, as another process would; the budget is the first store's."""

    @abstractmethod
    def holds(self, content_id: str) -> bool:
        """Tell whether a blob is really there, complete."""

    @abstractmethod
    def documents(self) -> set[str]:
        """Return the names of the documents that are really there."""

    @abstractmethod
    def spoil_document(self, name: str) -> None:
        """Write what is no document over one."""


@dataclass
class Bench:
    """A published tree, an origin with faults over it, and caches on the stores of the test."""

    tree: PublishedTree
    origin: FaultOrigin
    backing: Backing
    store_root: Path
    clock: Clock = field(default_factory=Clock)
    events: Events = field(default_factory=Events)
    caches: list[Cache] = field(default_factory=list)

    @asynccontextmanager
    async def cache(
        self, settings: CacheSettings | None = None, *, budget_bytes: int | None = None
    ) -> AsyncIterator[Cache]:
        """Open a cache; each time it finds what the last one left."""
        async with self.backing.open(self, settings or CacheSettings(), budget_bytes) as cache:
            self.caches.append(cache)
            yield cache

    def tree_origin(self) -> TreeOrigin:
        """Return the origin as a cache takes it."""
        return TreeOrigin(self.origin, Layout())

    def pass_seconds(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.seconds += seconds


@asynccontextmanager
async def _cache_on(
    opening: AbstractAsyncContextManager[Store], bench: Bench, settings: CacheSettings
) -> AsyncIterator[Cache]:
    async with (
        opening as store,
        Cache(bench.tree_origin(), store, settings, bench.events, bench.clock) as cache,
    ):
        yield cache


class DiskBacking(Backing):
    """A disk store."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(
        self, bench: Bench, settings: CacheSettings, budget_bytes: int | None
    ) -> AbstractAsyncContextManager[Cache]:
        return _cache_on(DiskStore(self.root, budget_bytes), bench, settings)

    def holds(self, content_id: str) -> bool:
        return (self.root / "blobs" / content_id[:2] / content_id).exists()

    def documents(self) -> set[str]:
        folder = self.root / "models"
        return {str(path.relative_to(folder)) for path in folder.rglob("*.json")}

    def spoil_document(self, name: str) -> None:
        (self.root / "models" / name).write_bytes(b"{")


class RedisBacking(Backing):
    """A store in Redis, one server or a cluster."""

    def __init__(self, url: str, client: Any) -> None:
        """Name it.

        Args:
            url: as ``--store`` takes it.
            client: a blocking one, for the hooks.
        """
        self._url = url
        self._client = client

    def store(self, budget_bytes: int | None) -> RedisStore:
        """Return the store, not yet entered."""
        return RedisStore(parse_redis_url(self._url), budget_bytes or _BUDGET_BYTES)

    def open(
        self, bench: Bench, settings: CacheSettings, budget_bytes: int | None
    ) -> AbstractAsyncContextManager[Cache]:
        return _cache_on(self.store(budget_bytes), bench, settings)

    def holds(self, content_id: str) -> bool:
        return bool(self._client.exists(blob_key(content_id)))

    def documents(self) -> set[str]:
        found = set()
        for key in self._client.scan_iter("hs1:m:*"):
            model = key.decode().removeprefix("hs1:m:{").removesuffix("}")
            found |= {f"{model}/{name.decode()}" for name in self._client.hkeys(key)}
        return found

    def spoil_document(self, name: str) -> None:
        key, field_name = model_key(name)
        self._client.hset(key, field_name, b"{")


class LevelsBacking(DiskBacking):
    """A disk over Redis; the hooks reach the disk."""

    copies = 2

    def __init__(self, root: Path, below: RedisBacking) -> None:
        super().__init__(root)
        self._below = below

    @asynccontextmanager
    async def open(
        self, bench: Bench, settings: CacheSettings, budget_bytes: int | None
    ) -> AsyncIterator[Cache]:
        lower = _LowerEvents(bench.events)
        async with (
            self._below.store(None) as below,
            Cache(bench.tree_origin(), below, settings, lower, bench.clock) as under,
            DiskStore(self.root, budget_bytes) as store,
            LeveledCache(under, below.url, store, settings, bench.events, bench.clock) as cache,
        ):
            yield cache


class _LowerEvents(NullObserver):
    """Tells of a lower level what is said of the cache as a whole: what came damaged, and what healed."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def refetched(self, model: str) -> None:
        self._events.refetched(model)

    def healed(self, model: str) -> None:
        self._events.healed(model)
