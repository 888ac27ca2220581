"""The page cache: brought to a state with a name, which stands beside the figures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["COLD", "WARM", "drop", "warm"]

WARM = "warm: every file read once before"
COLD = "cold: every file flushed and dropped from the page cache before"

_CHUNK_BYTES = 4 * 1024 * 1024


def _files(paths: tuple[Path, ...]) -> Iterator[Path]:
    for path in paths:
        yield from (item for item in sorted(path.rglob("*")) if item.is_file()) if path.is_dir() else [path]


def warm(*paths: Path) -> str:
    """Read files, or all files of folders, to their end, and return the state's name."""
    buffer = bytearray(_CHUNK_BYTES)
    for path in _files(paths):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return WARM


def drop(*paths: Path) -> str:
    """Drop files, or all files of folders, from the page cache, and return the state's name.

    Nobody else's pages are touched, and no rights are needed. What some process has mapped stays.
    """
    for path in _files(paths):
        with path.open("rb", buffering=0) as file:
            # Dirty pages cannot be dropped.
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return COLD
