"""The store on a local disk, layout 1 (``folders`` says which file lies where)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from hotstart.wire.pieces import Pieces
from hotstart.wire.ranges import ByteRange

from .base import Blob, BlobBusy, FileSlice, NeverFits, NoSpaceNow, PartialBlob, Store, StoreError, Usage
from .folders import Folders, lock_file, write_atomically
from .ledger import Ledger, Space
from .partial import DiskPartial, OpenPart, open_part, store_error
from .sweep import Found, scan_blobs, sweep

__all__ = ["DiskStore"]

T = TypeVar("T")
# Under the threshold (85 % used) from which a kubelet evicts pods for want of disk.
_DEFAULT_BUDGET_SHARE = 0.8


class DiskBlob(Blob):
    """A complete blob, open. Its descriptor outlives the file's name."""

    def __init__(self, content_id: str, size: int, descriptor: int, space: Space) -> None:
        self.id = content_id
        self.size = size
        self._descriptor = descriptor
        self._space = space
        self._closed = False
        space.hold()

    async def parts(self, wanted: ByteRange) -> AsyncIterator[FileSlice | bytes]:
        if len(wanted):
            yield FileSlice(self._descriptor, wanted.start, len(wanted))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)
            self._space.let_go()


class DiskStore(Store):
    """A folder of blobs. Several processes may share it; each counts what it knows of."""

    def __init__(self, root: Path, budget_bytes: int | None = None) -> None:
        """Name a store; nothing is touched until it is entered.

        Args:
            root: created with its parents if there is none.
            budget_bytes: for blobs and fills in progress together; None for 80 % of the filesystem.
        """
        self.url = f"disk:{root}"
        self._folders = Folders(root)
        self._budget_bytes = budget_bytes
        self._ledger = Ledger(budget_bytes or 0)
        self._blobs: dict[str, Space] = {}
        self._sizes: dict[str, int] = {}
        # Partial blobs that nobody in this process fills.
        self._left: dict[str, Space] = {}
        self._filling: set[str] = set()

    async def __aenter__(self) -> DiskStore:
        found = await self._run(f"opening the store in {self._folders.root}", self._sweep)
        for content_id, size in found.blobs.items():
            self._add_blob(content_id, Space(self._ledger, size))
        for content_id, size in found.partials.items():
            self._left[content_id] = Space(self._ledger, size)
        return self

    def _sweep(self) -> Found:
        found = sweep(self._folders, self.url)
        if self._budget_bytes is None:
            filesystem = os.statvfs(self._folders.root)
            total = filesystem.f_blocks * filesystem.f_frsize
            self._ledger.budget_bytes = int(total * _DEFAULT_BUDGET_SHARE)
        return found

    async def __aexit__(self, *exc_info: object) -> None:
        """Leave the files as they are: they are the next start's contents."""

    async def open_blob(self, content_id: str) -> Blob | None:
        # Not in a thread: the name of a local file is looked up in microseconds, and this is every hit's way.
        try:
            descriptor = os.open(self._folders.blob(content_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._remove_blob(content_id)
            return None
        except OSError as error:
            raise store_error(self.url, f"opening blob {content_id}", error) from error
        size = os.fstat(descriptor).st_size
        space = self._blobs.get(content_id)
        if space is None or space.size != size:
            # Another process put it here since we looked.
            space = Space(self._ledger, size)
            self._add_blob(content_id, space)
        return DiskBlob(content_id, size, descriptor, space)

    def _add_blob(self, content_id: str, space: Space) -> None:
        self._remove_blob(content_id)
        self._blobs[content_id] = space
        self._sizes[content_id] = space.size

    def _remove_blob(self, content_id: str) -> None:
        space = self._blobs.pop(content_id, None)
        if space is not None:
            del self._sizes[content_id]
            space.unname()

    async def begin_fill(self, content_id: str, size: int, pieces: Pieces | None) -> PartialBlob | None:
        doing = f"reserving {size} bytes for blob {content_id}"
        if size > self._ledger.budget_bytes:
            raise NeverFits(self.url, doing, f"the whole budget is {self._ledger.budget_bytes} bytes")
        if content_id in self._filling:
            raise BlobBusy(self.url, doing, "this process is filling it already")
        space = self._left.pop(content_id, None)
        if space is not None and space.size != size:
            space.unname()
            space = None
        if space is None:
            if not self._ledger.fits_now(size):
                raise NoSpaceNow(
                    self.url,
                    doing,
                    f"{self._ledger.used_bytes} of {self._ledger.budget_bytes} bytes are in use",
                )
            space = Space(self._ledger, size)
        space.hold()
        self._filling.add(content_id)
        try:
            opened = await self._open_part(doing, content_id, size, pieces)
        except BaseException:
            self._filling.discard(content_id)
            space.unname()
            space.let_go()
            raise
        return DiskPartial(self._folders, self.url, content_id, size, opened, space, self._fill_ended)

    async def _open_part(self, doing: str, content_id: str, size: int, pieces: Pieces | None) -> OpenPart:
        future = asyncio.get_running_loop().run_in_executor(
            None, open_part, self._folders, self.url, content_id, size, pieces
        )
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The thread goes on; nobody will have what it opens.
            await asyncio.wait([future])
            if future.exception() is None:
                future.result().close()
            raise
        except OSError as error:
            raise store_error(self.url, doing, error) from error

    def _fill_ended(self, ended: DiskPartial) -> None:
        self._filling.discard(ended.id)
        if ended.committed:
            self._add_blob(ended.id, ended.space)
        elif ended.discarded:
            ended.space.unname()
        else:
            self._left[ended.id] = ended.space

    async def drop_partials(self, idle_seconds: float) -> int:
        freed = 0
        newest = time.time() - idle_seconds
        for content_id in list(self._left):
            dropped = await self._run(
                f"dropping partial blob {content_id}", partial(self._drop_part, content_id, newest)
            )
            space = self._left.get(content_id)
            if dropped and space is not None:
                del self._left[content_id]
                space.unname()
                freed += space.size
        return freed

    def _drop_part(self, content_id: str, newest: float) -> bool:
        part = self._folders.part(content_id)
        try:
            descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            if os.fstat(descriptor).st_mtime > newest or not lock_file(descriptor):
                return False
            self._folders.map(content_id).unlink(missing_ok=True)
            part.unlink(missing_ok=True)
            return True
        finally:
            os.close(descriptor)

    async def delete(self, content_id: str) -> bool:
        removed = await self._run(f"removing blob {content_id}", lambda: self._unlink_blob(content_id))
        if removed is False:
            return False
        self._remove_blob(content_id)
        return removed is True

    def _unlink_blob(self, content_id: str) -> bool | None:
        """Unlink a blob; None if there is none, False if it is mapped."""
        path = self._folders.blob(content_id)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not lock_file(descriptor):
                return False
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(descriptor)

    async def quarantine(self, content_id: str) -> bool:
        there = content_id in self._blobs
        await self._run(
            f"removing damaged blob {content_id}",
            lambda: self._folders.blob(content_id).unlink(missing_ok=True),
        )
        self._remove_blob(content_id)
        return there

    async def refresh(self) -> None:
        found = await self._run("listing blobs", lambda: scan_blobs(self._folders))
        for content_id in self._sizes.keys() - found.keys():
            self._remove_blob(content_id)
        for content_id, size in found.items():
            if self._sizes.get(content_id) != size:
                self._add_blob(content_id, Space(self._ledger, size))

    @property
    def trouble(self) -> str | None:
        return None

    def blobs(self) -> Mapping[str, int]:
        return MappingProxyType(self._sizes)

    def usage(self) -> Usage:
        return Usage(self._ledger.budget_bytes, self._ledger.used_bytes, len(self._blobs))

    async def read_document(self, name: str) -> bytes | None:
        path = self._document(name)

        def read() -> bytes | None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return path.read_bytes()
            return None

        return await self._run(f"reading {name}", read)

    async def write_document(self, name: str, data: bytes) -> None:
        path = self._document(name)
        await self._run(f"writing {name}", lambda: write_atomically(self._folders.temporary(), path, data))

    async def delete_document(self, name: str) -> None:
        path = self._document(name)
        await self._run(f"removing {name}", lambda: path.unlink(missing_ok=True))

    async def documents(self) -> Sequence[str]:
        return await self._run("listing documents", self._list_documents)

    def _list_documents(self) -> list[str]:
        names = []
        for folder, _, files in os.walk(self._folders.models):
            relative = Path(folder).relative_to(self._folders.models)
            names += [(relative / name).as_posix() for name in files]
        return sorted(names)

    def _document(self, name: str) -> Path:
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            raise StoreError(self.url, f"naming a document {name!r}", "it is no plain relative name")
        return self._folders.models / name

    async def _run(self, doing: str, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(None, work)
        except OSError as error:
            raise store_error(self.url, doing, error) from error
