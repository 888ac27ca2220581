"""Where tensors land: anonymous memory for bytes that arrive, mapped memory for files that are there."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable
from typing import Protocol

__all__ = ["HostBuffer", "MappedFile", "discard"]

PAGE_BYTES = mmap.PAGESIZE
_HUGE_PAGE_BYTES = 2 * 1024 * 1024


class MappedFile(Protocol):
    """A file mapped privately (ACCESS_COPY), alive as long as any view of it.

    Attributes:
        view: all bytes of the file, writeable without changing the file.
    """

    @property
    def view(self) -> memoryview: ...

    def close(self) -> None:
        """Drop our own reference; the mapping and its lock stay while views of it live."""


class _Map(mmap.mmap):
    """A map that does something before it goes: a weak reference's callback comes after."""

    release: Callable[[], None] | None = None

    def __del__(self) -> None:
        if self.release is not None:
            self.release()


class HostBuffer:
    """Page-aligned anonymous memory of a fixed size, given back when its last view dies.

    Pages are touched first by whoever fills them: reserving is free, filling is spread over the workers.
    """

    def __init__(self, size: int, *, discards: bool = True) -> None:
        """Reserve.

        Args:
            size: in bytes.
            discards: pages may be given back; not those that are pinned.
        """
        self._discards = discards
        # An empty map is not allowed; a file without tensors still wants a buffer.
        mapped_bytes = max(size, 1)
        if hasattr(mmap, "MAP_PRIVATE"):
            # Python's default is a shared map: that is a file in a tmpfs, which a forked child would share,
            # and which gets no huge pages.
            self._map = _Map(-1, mapped_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            self._map = _Map(-1, mapped_bytes)
        if size >= _HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
            # A page fault per 2 MiB instead of per 4 KiB while data streams in. Kernels without it say so.
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)[:size]

    def on_release(self, release: Callable[[], None]) -> None:
        """Have something done once, by any thread, when the last view has died and before the memory goes."""
        self._map.release = release

    def discard(self, start: int, stop: int) -> None:
        """Give the whole pages between two offsets back; their content is lost, the rest stays.

        A hint: where the system cannot, nothing happens.
        """
        if self._discards:
            _discard(self._map, start, stop)


def discard(data: memoryview) -> None:
    """Give back the whole pages of a part of a ``HostBuffer`` whose content nobody needs any more.

    Of any other memory nothing is given back.
    """
    owner = data.obj
    if isinstance(owner, _Map) and owner.release is None and len(data):
        start = _address(data) - _address(owner)
        _discard(owner, start, start + len(data))


def _address(memory: memoryview | mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _discard(owner: mmap.mmap, start: int, stop: int) -> None:
    first = -(-start // PAGE_BYTES) * PAGE_BYTES
    length = stop // PAGE_BYTES * PAGE_BYTES - first
    if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError):
            owner.madvise(mmap.MADV_DONTNEED, first, length)
