"""Which store a ``--store`` URL names."""

from __future__ import annotations

from pathlib import Path

from hotstart.wire.errors import HotstartError

from .base import Store
from .disk import DiskStore

__all__ = ["InvalidStoreUrl", "open_store"]

_DISK = "disk:"


class InvalidStoreUrl(HotstartError):
    """A store's URL is none of the forms that are known.

    Attributes:
        url: what was given.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        super().__init__(f"{url!r} names no store: {reason}")


def open_store(url: str, budget_bytes: int | None) -> Store:
    """Return the store that url names; nothing is touched until it is entered.

    Args:
        url: ``disk:/absolute/path``.
        budget_bytes: None for the store's own default.

    Raises:
        InvalidStoreUrl: another form, or a relative path.
    """
    if not url.startswith(_DISK):
        raise InvalidStoreUrl(url, "expected disk:/absolute/path")
    path = Path(url.removeprefix(_DISK))
    if not path.is_absolute():
        raise InvalidStoreUrl(url, "expected an absolute path after disk:")
    if budget_bytes is not None and budget_bytes <= 0:
        raise InvalidStoreUrl(url, f"a budget of {budget_bytes} bytes holds nothing")
    return DiskStore(path, budget_bytes)
