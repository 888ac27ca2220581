"""A cache whose models are followed: polled, and filled before anyone asks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hotstart.wire.adoption import Layout
from hotstart.wire.references import parse_reference
from hotstart_proxy.cache.arrivals import Arrivals, NewsSource
from hotstart_proxy.cache.awaited import Awaited
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.core.polling import Learned
from hotstart_proxy.origins.tree import TreeOrigin
from hotstart_proxy.stores.disk import DiskStore
from tests.integration.cache.conftest import Bench
from tests.support.deadlines import DEADLINE_SECONDS

__all__ = ["OFTEN_SECONDS", "SELDOM_SECONDS", "Followed", "Heard", "followed"]

OFTEN_SECONDS = 0.05
# Not within a test.
SELDOM_SECONDS = 100 * DEADLINE_SECONDS


@dataclass
class Heard:
    """Remembers what it was told."""

    arrived: list[tuple[str, str]] = field(default_factory=list)
    warmed: list[float] = field(default_factory=list)
    failures: int = 0
    missing: list[tuple[int, bool]] = field(default_factory=list)

    def version_arrived(self, model: str, learned: Learned) -> None:
        self.arrived.append((model, learned.value))

    def version_warmed(self, model: str, seconds: float) -> None:
        self.warmed.append(seconds)

    def warm_failed(self, model: str) -> None:
        self.failures += 1

    def awaited(self, missing: int, *, late: bool) -> None:
        self.missing.append((missing, late))


class Announced:
    """A channel that remembers what was published, and on which nobody says anything."""

    name = "pub/sub"
    learned = Learned.PUBSUB

    def __init__(self, published: list[str]) -> None:
        self._published = published

    async def publish(self, model: str) -> None:
        self._published.append(model)

    async def close(self) -> None:
        return None

    async def listen(self, trouble: Callable[[str | None], None]) -> AsyncGenerator[str, None]:
        while True:
            await asyncio.sleep(SELDOM_SECONDS)
            yield ""


@dataclass
class Followed:
    """What a test holds of a followed cache."""

    cache: Cache
    root: Path
    arrivals: Arrivals
    awaited: Awaited
    heard: Heard
    changed: list[str]

    def logged(self, caplog_records: Sequence[logging.LogRecord], event: str) -> list[dict[str, object]]:
        """Return the fields of all log lines of an event."""
        return [getattr(item, "fields", {}) for item in caplog_records if item.getMessage() == event]

    def notes(self) -> list[str]:
        """Return the names of the notes of arrivals in the store."""
        return [path.name for path in self.root.glob("models/*/*/arrivals/*")]


@asynccontextmanager
async def followed(
    bench: Bench,
    interval_seconds: float = OFTEN_SECONDS,
    *,
    settings: CacheSettings | None = None,
    budget_bytes: int | None = None,
    ready_when: Sequence[str] = (),
    within_seconds: float = SELDOM_SECONDS,
    sources: Sequence[NewsSource] = (),
) -> AsyncIterator[Followed]:
    """Open a cache on the bench's store and origin, and follow its models."""
    # Else a version whose files are being published would look like a folder that was uploaded long ago.
    bench.clock.seconds = time.time()
    heard, changed = Heard(), list[str]()
    async with DiskStore(bench.store_root, budget_bytes) as store:
        origin = TreeOrigin(bench.origin, Layout())
        async with Cache(origin, store, settings or CacheSettings(), bench.events, bench.clock) as cache:
            bench.caches.append(cache)
            references = [parse_reference(text) for text in ready_when]
            async with Awaited(cache, references, within_seconds, OFTEN_SECONDS, heard) as awaited:
                arrivals = Arrivals(
                    cache,
                    [store],
                    interval_seconds,
                    heard,
                    named=awaited.models,
                    sources=sources,
                    announcements=Announced(changed),
                    now=bench.clock,
                )
                async with arrivals:
                    yield Followed(cache, bench.store_root, arrivals, awaited, heard, changed)
