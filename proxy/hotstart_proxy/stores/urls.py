"""Which store a ``--store`` URL names."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from hotstart.wire.errors import HotstartError

from .base import Store
from .disk import DiskStore
from .redis_urls import REDIS_SCHEMES, InvalidRedisUrl, masked, parse_redis_url

__all__ = [
    "InvalidStoreUrl",
    "StoreUrl",
    "open_announcements",
    "open_store",
    "parse_store_url",
    "store_folder",
]

_DISK = "disk:"
_EXPECTED = (
    "expected disk:/absolute/path, redis://host:6379/0, rediss://…, redis+cluster://…, rediss+cluster://… or"
    " unix:///path/of/redis.sock"
)


class InvalidStoreUrl(HotstartError):
    """A store's URL is none of the forms that are known; the message does not repeat its secrets.

    Attributes:
        url: what was given, masked.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = masked(url)
        super().__init__(f"{self.url!r} names no store: {reason}")


class StoreUrl(str):
    """A store's URL, which shows itself without its password wherever it is printed or logged.

    What looks into it (``startswith``, ``parse_redis_url``) sees all of it.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return masked("".join(self))

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, specification: str) -> str:
        return format(str(self), specification)


def parse_store_url(text: str) -> StoreUrl:
    """Check a store's URL.

    Raises:
        InvalidStoreUrl: another form, or a relative path.
    """
    if text.startswith(_DISK):
        if not Path(text.removeprefix(_DISK)).is_absolute():
            raise InvalidStoreUrl(text, "expected an absolute path after disk:")
    elif text.partition("://")[0] in REDIS_SCHEMES:
        try:
            parse_redis_url(text)
        except InvalidRedisUrl as error:
            raise InvalidStoreUrl(text, error.reason) from error
    else:
        raise InvalidStoreUrl(text, _EXPECTED)
    return StoreUrl(text)


def store_folder(url: str) -> Path | None:
    """Return the folder of a disk store; None for a store that has none."""
    return Path(url.removeprefix(_DISK)) if url.startswith(_DISK) else None


def open_announcements(url: str) -> Any:
    """Return the ``RedisAnnouncements`` of a store in Redis; None for one that carries no messages.

    Args:
        url: as ``parse_store_url`` takes it.
    """
    if store_folder(url) is not None:
        return None
    redis: Any = importlib.import_module(f"{__package__}.redis_announcements")
    return redis.RedisAnnouncements(parse_redis_url(url))


def open_store(url: str, budget_bytes: int | None) -> Store:
    """Return the store that url names; nothing is touched until it is entered.

    Args:
        url: as ``parse_store_url`` takes it.
        budget_bytes: None for the store's own default.

    Raises:
        InvalidStoreUrl: another form, or a relative path.
    """
    parse_store_url(url)
    if budget_bytes is not None and budget_bytes <= 0:
        raise InvalidStoreUrl(url, f"a budget of {budget_bytes} bytes holds nothing")
    folder = store_folder(url)
    if folder is not None:
        return DiskStore(folder, budget_bytes)
    # Imported where it is used: redis-py costs a start more than all of the disk store.
    redis: Any = importlib.import_module(f"{__package__}.redis")
    store: Store = redis.RedisStore(parse_redis_url(url), budget_bytes)
    return store
