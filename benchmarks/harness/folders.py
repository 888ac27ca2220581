"""Where benchmarks keep what they make, below the repository, and what they remove again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["REPOSITORY", "cache_folder", "sockets_folder", "workplace"]

REPOSITORY = Path(__file__).resolve().parents[2]
_BASE = REPOSITORY / ".bench"


def cache_folder() -> Path:
    """Return the folder for what takes long to make and is used again; ``make clean`` removes it."""
    folder = _BASE / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def workplace(name: str) -> Iterator[Path]:
    """A folder for one benchmark's origins, stores and logs, beside the cache; removed at the end."""
    _BASE.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_BASE))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def sockets_folder() -> Iterator[Path]:
    """A folder with a short name for Unix sockets, whose path holds 107 bytes at most; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="hs-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
