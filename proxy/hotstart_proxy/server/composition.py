"""From settings to what a proxy is made of: its origin, its stores, and the caches on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from hotstart_proxy.cache.arrivals import Announcements, NewsSource
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.levels import LeveledCache
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.origins.base import OriginError
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.origins.guarded import GuardedOrigin
from hotstart_proxy.origins.models import ModelOrigin
from hotstart_proxy.origins.s3 import S3Settings
from hotstart_proxy.origins.sqs import SqsQueue, SqsSettings
from hotstart_proxy.origins.token_file import TokenFile
from hotstart_proxy.origins.tree import TreeOrigin
from hotstart_proxy.origins.upstream import UpstreamOrigin
from hotstart_proxy.origins.urls import is_upstream, open_origin
from hotstart_proxy.stores.base import Store
from hotstart_proxy.stores.urls import open_announcements, open_store
from hotstart_proxy.telemetry.metrics import Metrics

from .level_observers import LevelObservers
from .settings import Settings

__all__ = ["Level", "announcements", "compose", "model_origin", "news_sources"]


@dataclass(frozen=True, slots=True)
class Level:
    """One store and the cache on it.

    Attributes:
        name: what metrics call the store: its kind, with a number where there are several of it.
        store: readers never meet it, but whoever polls and scrubs does.
    """

    name: str
    store: Store
    cache: Cache


async def compose(
    stack: AsyncExitStack, settings: Settings, name: str, metrics: Metrics
) -> tuple[Level, ...]:
    """Open origin, stores and caches; return the levels, the first being the one that readers read.

    Args:
        stack: closes all of it, in the right order.
        settings: the proxy's.
        name: the proxy's own, as ``model_origin`` takes it.
        metrics: told of what happens.

    Raises:
        HotstartError: something cannot be opened; what has been is on the stack.
    """
    origin = await stack.enter_async_context(GuardedOrigin(model_origin(settings, name, metrics), metrics))
    observers = LevelObservers(metrics)
    names = _names(settings.store)
    lowest = len(names) - 1
    levels: list[Level] = []
    for place in range(lowest, -1, -1):
        budget = settings.budget[place] if place < len(settings.budget) else None
        store = await stack.enter_async_context(open_store(settings.store[place], budget))
        observer = observers.observer(names[place], is_top=place == 0, is_lowest=place == lowest)
        cache = (
            Cache(origin, store, cache_settings(settings), observer)
            if not levels
            else LeveledCache(levels[0].cache, levels[0].store.url, store, cache_settings(settings), observer)
        )
        levels.insert(0, Level(names[place], store, await stack.enter_async_context(cache)))
    return tuple(levels)


def _names(stores: Sequence[str]) -> list[str]:
    names: list[str] = []
    for url in stores:
        scheme = url.partition(":")[0]
        kind = "disk" if scheme == "disk" else "redis"
        count = sum(name.partition("-")[0] == kind for name in names)
        names.append(f"{kind}-{count + 1}" if count else kind)
    return names


def cache_settings(settings: Settings) -> CacheSettings:
    """Return how the caches behave."""
    return CacheSettings(
        keep_versions=settings.keep_versions,
        keep_versions_of=dict(settings.keep_versions_of),
        alias_ttl_seconds=settings.alias_ttl,
        on_miss=settings.on_miss,
        keep=settings.keep,
        partial_ttl_seconds=settings.partial_ttl,
        presign_seconds=settings.presign_expiry,
        scrub_interval_seconds=settings.scrub_interval,
    )


def model_origin(settings: Settings, name: str, observer: Observer) -> ModelOrigin:
    """Return the origin; entering it connects.

    Args:
        settings: the proxy's.
        name: its own, by which another proxy knows it.
        observer: told of requests that are sent again.

    Raises:
        OriginError: it is a folder that is not there.
    """
    if is_upstream(settings.origin):
        token = None if settings.origin_token_file is None else TokenFile(settings.origin_token_file)
        return UpstreamOrigin(settings.origin, name, token)
    s3 = S3Settings(
        endpoint=settings.origin_endpoint,
        region=settings.origin_region,
        addressing=settings.origin_addressing,
        stall_seconds=settings.origin_timeout,
    )
    origin = open_origin(settings.origin, os.environ, s3, observer)
    # A mistyped path or a volume that is not mounted: said at the start instead of with every answer.
    if isinstance(origin, DirectoryOrigin) and not Path(origin.identity.bucket).is_dir():
        raise OriginError(origin.url, "opening the origin", "there is no such folder: create or mount it")
    return TreeOrigin(origin, settings.layout)


def announcements(settings: Settings) -> Announcements | None:
    """Return how proxies that share a store tell each other of news; None where no store carries any.

    Of several stores that do, the first is used.
    """
    for url in settings.store:
        found: Announcements | None = open_announcements(url)
        if found is not None:
            return found
    return None


def news_sources(settings: Settings) -> list[NewsSource]:
    """Return what says, beside the origin itself, that models have news."""
    if settings.sqs_queue is None:
        return []
    bucket, _, prefix = settings.origin.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    queue = SqsSettings.of(settings.sqs_queue, bucket, f"{prefix}/" if prefix else "", os.environ)
    return [SqsQueue(queue)]
