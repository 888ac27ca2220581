"""Where tensors land: anonymous memory for bytes that arrive, mapped memory for files that are there."""

from __future__ import annotations

import mmap
from typing import Protocol

__all__ = ["HostBuffer", "MappedFile"]

_PAGE_BYTES = mmap.PAGESIZE


class MappedFile(Protocol):
    """A file mapped privately (ACCESS_COPY), alive as long as any view of it.

    Attributes:
        view: all bytes of the file, writeable without changing the file.
    """

    @property
    def view(self) -> memoryview: ...

    def close(self) -> None:
        """Drop our own reference; the mapping and its lock stay while views of it live."""


class HostBuffer:
    """Page-aligned anonymous memory of a fixed size, given back when its last view dies.

    Pages are touched first by whoever fills them: reserving is free, filling is spread over the workers.
    """

    def __init__(self, size: int) -> None:
        # An empty map is not allowed; a file without tensors still wants a buffer.
        self._map = mmap.mmap(-1, max(size, 1))
        if hasattr(mmap, "MADV_HUGEPAGE") and size >= 2 * 1024 * 1024:
            # A page fault per 2 MiB instead of per 4 KiB while the data streams in.
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)[:size]
