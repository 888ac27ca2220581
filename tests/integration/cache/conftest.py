"""A published tree, an origin with faults over it, a disk store, and caches on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hotstart.wire.adoption import Layout
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.core.observer import NullObserver
from hotstart_proxy.origins.tree import TreeOrigin
from hotstart_proxy.stores.base import Store
from hotstart_proxy.stores.disk import DiskStore
from hotstart_proxy.telemetry.load import Load
from tests.integration.cache.fault_origin import FaultOrigin
from tests.integration.cache.published_tree import PublishedTree

__all__ = ["Bench", "Clock", "Events"]


class Clock:
    """The time, as tests set it."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Events(NullObserver):
    """Remembers what the tests ask about."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.refetches = 0
        self.heals = 0
        self.evictions: list[tuple[str, int]] = []
        self.redirects = 0
        self.verified_bytes = 0

    def fill_ended(self, model: str, outcome: str, fetched_bytes: int, seconds: float) -> None:
        self.outcomes.append(outcome)

    def refetched(self, model: str) -> None:
        self.refetches += 1

    def healed(self, model: str) -> None:
        self.heals += 1

    def verified(self, count: int) -> None:
        self.verified_bytes += count

    def evicted(self, reason: str, count: int) -> None:
        self.evictions.append((reason, count))

    def redirected(self, model: str, count: int) -> None:
        self.redirects += 1


@dataclass
class Bench:
    """All that a test of the cache works with."""

    tree: PublishedTree
    origin: FaultOrigin
    store_root: Path
    clock: Clock = field(default_factory=Clock)
    events: Events = field(default_factory=Events)
    caches: list[Cache] = field(default_factory=list)

    @asynccontextmanager
    async def cache(
        self,
        settings: CacheSettings | None = None,
        *,
        budget_bytes: int | None = None,
        opening: AbstractAsyncContextManager[Store] | None = None,
    ) -> AsyncIterator[Cache]:
        """Put a cache on the disk store, or on another one."""
        async with opening or DiskStore(self.store_root, budget_bytes) as store:
            origin = TreeOrigin(self.origin, Layout())
            async with Cache(origin, store, settings or CacheSettings(), self.events, self.clock) as cache:
                self.caches.append(cache)
                yield cache

    def blob(self, content_id: str) -> Path:
        """Where a blob lies, in disk layout 1."""
        return self.store_root / "blobs" / content_id[:2] / content_id

    def pass_seconds(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.seconds += seconds


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A tree without versions, and an empty store; in the end every cache has given back all that it took."""
    root = tmp_path / "origin"
    root.mkdir()
    tree = PublishedTree(root)
    bench = Bench(tree, FaultOrigin(tree.origin), tmp_path / "store")
    yield bench
    for cache in bench.caches:
        assert cache.load() == Load()
