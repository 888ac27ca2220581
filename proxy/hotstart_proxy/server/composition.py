"""From settings to what a proxy is made of: its origin, its stores, and the caches on them."""

from __future__ import annotations

import os
from pathlib import Path

from hotstart_proxy.cache.arrivals import Announcements, NewsSource
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.origins.base import OriginError
from hotstart_proxy.origins.directory import DirectoryOrigin
from hotstart_proxy.origins.models import ModelOrigin
from hotstart_proxy.origins.s3 import S3Settings
from hotstart_proxy.origins.sqs import SqsQueue, SqsSettings
from hotstart_proxy.origins.token_file import TokenFile
from hotstart_proxy.origins.tree import TreeOrigin
from hotstart_proxy.origins.upstream import UpstreamOrigin
from hotstart_proxy.origins.urls import is_upstream, open_origin
from hotstart_proxy.stores.urls import open_announcements

from .settings import Settings

__all__ = ["announcements", "cache_settings", "model_origin", "news_sources"]


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
    """Return how proxies that share the store tell each other of news; None where it carries none."""
    found: Announcements | None = open_announcements(settings.store)
    return found


def news_sources(settings: Settings) -> list[NewsSource]:
    """Return what says, beside the origin itself, that models have news."""
    if settings.sqs_queue is None:
        return []
    bucket, _, prefix = settings.origin.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    queue = SqsSettings.of(settings.sqs_queue, bucket, f"{prefix}/" if prefix else "", os.environ)
    return [SqsQueue(queue)]
