"""The store on a local disk, layout 1 (``folders`` says which file lies where)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from hotstart.wire.pieces import Pieces
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.telemetry.logs import log_event

from .ages import Ages
from .base import Blob, BlobBusy, FileSlice, NeverFits, PartialBlob, Store, StoreError, Usage
from .exclusion import Exclusion
from .folders import Folders, make_folder, write_atomically
from .inventory import Inventory
from .joining import Joining
from .ledger import Space
from .partial import DiskPartial, Place
from .parts import drop_part
from .sweep import prepare, sweep
from .system import System
from .threads import Threads, store_error

__all__ = ["DiskStore"]

_log = logging.getLogger("hotstart_proxy.stores.disk")
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

    def whole(self, wanted: ByteRange) -> FileSlice | None:
        return FileSlice(self._descriptor, wanted.start, len(wanted)) if len(wanted) else None

    async def parts(self, wanted: ByteRange) -> AsyncIterator[FileSlice | bytes]:
        if (part := self.whole(wanted)) is not None:
            yield part

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)
            self._space.let_go()


class DiskStore(Store):
    """A folder of blobs. Several processes may share it: its fills, and one budget."""

    def __init__(self, root: Path, budget_bytes: int | None = None, system: System | None = None) -> None:
        """Name a store; nothing is touched until it is entered.

        Args:
            root: created with its parents if there is none.
            budget_bytes: for blobs, fills in progress and quarantine together; None for 80 % of the
                filesystem. Processes that share a store are given the same.
            system: None for the real one.
        """
        self.url = f"disk:{root}"
        self._folders = Folders(root)
        self._blobs = str(self._folders.blobs)
        self._budget_bytes = budget_bytes
        self._system = system or System()
        self._ages = Ages(self._system)
        self._threads = Threads(self.url)
        self._exclusion = Exclusion(self._folders.fills, self.url, self._system)
        self._place = Place(self._folders, self.url, self._system, self._exclusion)
        self._inventory = Inventory(budget_bytes or 0)
        self._joining = Joining(self._folders, self.url, self._system, self._exclusion, self._inventory)
        # In this process.
        self._filling: set[str] = set()

    async def __aenter__(self) -> DiskStore:
        doing = f"opening the store in {self._folders.root}"
        await self._threads.run(doing, lambda: prepare(self._system, self._folders, self.url))
        if self._budget_bytes is None:
            self._inventory.ledger.budget_bytes = await self._threads.run(doing, self._share)
        async with self._exclusion:
            await self._sweep(doing, "dropped at opening")
        return self

    async def _sweep(self, doing: str, event: str) -> None:
        """Clean up, and bring the inventory up to date. Under the exclusion."""
        for what in await self._threads.finish(doing, lambda: sweep(self._system, self._folders)):
            self._say(event, what)
        await self._joining.look(doing)

    def _say(self, event: str, what: str) -> None:
        log_event(_log, logging.WARNING, event, {"store": self.url, "what": what})

    def _share(self) -> int:
        filesystem = os.statvfs(self._folders.root)
        return int(filesystem.f_blocks * filesystem.f_frsize * _DEFAULT_BUDGET_SHARE)

    async def __aexit__(self, *exc_info: object) -> None:
        """Leave the files as they are: they are the next start's contents."""

    async def open_blob(self, content_id: str) -> Blob | None:
        # Not in a thread: the name of a local file is looked up in microseconds, and this is every hit's way;
        # ``Folders.blob`` as text, since putting a Path together takes longer than opening it.
        try:
            path = f"{self._blobs}/{content_id[:2]}/{content_id}"
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._inventory.remove_blob(content_id)
            return None
        except OSError as error:
            raise store_error(self.url, f"opening blob {content_id}", error) from error
        size = os.fstat(descriptor).st_size
        space = self._inventory.blob(content_id)
        if space is None or space.size != size:
            # Another process put it here since we looked.
            space = Space(self._inventory.ledger, size)
            self._inventory.add_blob(content_id, space)
        return DiskBlob(content_id, size, descriptor, space)

    async def begin_fill(self, content_id: str, size: int, pieces: Pieces | None) -> PartialBlob | None:
        doing = f"reserving {size} bytes for blob {content_id}"
        budget_bytes = self._inventory.ledger.budget_bytes
        if size > budget_bytes:
            raise NeverFits(self.url, doing, f"the whole budget is {budget_bytes} bytes")
        if content_id in self._filling:
            raise BlobBusy(self.url, doing, "this process is filling it already")
        self._filling.add(content_id)
        joined = None
        try:
            joined = await self._joining.join(doing, content_id, size)
        finally:
            if joined is None:
                self._filling.discard(content_id)
        if joined is None:
            return None
        return DiskPartial(self._place, joined.known, pieces, joined.opened, joined.space, self._fill_ended)

    def _fill_ended(self, ended: DiskPartial) -> None:
        self._filling.discard(ended.id)
        if ended.discarded:
            self._inventory.dropped(ended.id, ended.space)
        elif ended.committed and ended.space.named and self._folders.blob(ended.id).exists():
            # Else others have removed it since: what a look has seen, or will see.
            self._inventory.committed(ended.id, ended.space)

    async def drop_partials(self, idle_seconds: float) -> int:
        doing = "dropping partial blobs"
        ledger = self._inventory.ledger
        async with self._exclusion:
            await self._joining.look(doing)
            before = ledger.used_bytes
            # Also what neighbours have left that were killed since.
            await self._sweep(doing, "dropped")
            parts = [self._folders.part(content_id).name for content_id in self._inventory.partials]
            self._ages.forget_others({*parts, *self._inventory.quarantined})
            for content_id in self._inventory.partials:
                drop = partial(self._drop_part, content_id, idle_seconds)
                if await self._threads.finish(doing, drop):
                    self._inventory.remove_partial(content_id)
                    self._say("dropped", f"fills/{content_id}.part: nobody has gone on with it")
            for content_id in self._inventory.quarantined:
                unlink = partial(self._unlink, self._folders.aside(content_id), idle_seconds)
                if await self._threads.finish(doing, unlink) is not False:
                    self._inventory.remove_quarantined(content_id)
                    self._say("dropped", f"quarantine/{content_id}: it has been kept for long enough")
        return max(0, before - ledger.used_bytes)

    def _drop_part(self, content_id: str, idle_seconds: float) -> bool:
        path = self._folders.part(content_id)
        try:
            if self._ages.idle_seconds(path.name, path.stat().st_mtime) < idle_seconds:
                return False
        except FileNotFoundError:
            return True
        return drop_part(self._system, self._folders, content_id)

    async def delete(self, content_id: str) -> bool:
        async with self._exclusion:
            removed = await self._threads.finish(
                f"removing blob {content_id}", lambda: self._unlink(self._folders.blob(content_id))
            )
            if removed is not False:
                self._inventory.remove_blob(content_id)
        return removed is True

    def _unlink(self, path: Path, idle_seconds: float = 0) -> bool | None:
        """Unlink a blob; None if there is none, False if it is mapped or has changed since."""
        try:
            descriptor = self._system.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            changed_at = os.fstat(descriptor).st_mtime
            if idle_seconds and self._ages.idle_seconds(path.name, changed_at) < idle_seconds:
                return False
            if not self._system.lock(descriptor):
                return False
            self._system.unlink(path)
            return True
        finally:
            os.close(descriptor)

    async def quarantine(self, content_id: str) -> bool:
        async with self._exclusion:
            doing = f"setting damaged blob {content_id} aside"
            there = await self._threads.finish(doing, lambda: self._set_aside(content_id))
            if there:
                self._inventory.set_aside(content_id)
                self._say("damaged blob set aside", f"quarantine/{content_id}")
            else:
                self._inventory.remove_blob(content_id)
        return there

    def _set_aside(self, content_id: str) -> bool:
        system, folders = self._system, self._folders
        blob, aside = folders.blob(content_id), folders.aside(content_id)
        make_folder(system, folders.quarantine)
        try:
            # Dated first: it is kept for as long as a partial blob, from now on.
            system.touch(blob)
            system.rename(blob, aside)
        except FileNotFoundError:
            return False
        system.sync_folder(blob.parent)
        system.sync_folder(folders.quarantine)
        return True

    async def refresh(self) -> None:
        async with self._exclusion:
            await self._joining.look("listing blobs")

    @property
    def trouble(self) -> str | None:
        return None

    def blobs(self) -> Mapping[str, int]:
        return self._inventory.blobs

    def usage(self) -> Usage:
        ledger = self._inventory.ledger
        return Usage(ledger.budget_bytes, ledger.used_bytes, len(self._inventory.blobs))

    async def read_document(self, name: str) -> bytes | None:
        path = self._document(name)

        def read() -> bytes | None:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return path.read_bytes()
            return None

        return await self._threads.run(f"reading {name}", read)

    async def write_document(self, name: str, data: bytes) -> None:
        path = self._document(name)
        await self._threads.run(f"writing {name}", lambda: self._write_document(path, data))

    async def delete_document(self, name: str) -> None:
        path = self._document(name)
        await self._threads.run(f"removing {name}", lambda: self._system.unlink(path))

    async def documents(self) -> Sequence[str]:
        return await self._threads.run("listing documents", self._list_documents)

    def _write_document(self, path: Path, data: bytes) -> None:
        write_atomically(self._system, self._folders.temporary(), path, data)

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
