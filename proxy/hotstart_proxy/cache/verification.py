"""Damage at rest: every blob and document of a store is read and compared with what it must be."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import zlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from hotstart.wire import documents as json_documents
from hotstart.wire.digests import sha256_id
from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index
from hotstart.wire.manifest import Manifest, parse_pieces
from hotstart.wire.pieces import Pieces, piece_count, piece_range
from hotstart.wire.references import Reference
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.scrub import Pace, fault_of, is_checked, scrub_order
from hotstart_proxy.stores.base import Blob, FileSlice, Store, StoreError, Vanished
from hotstart_proxy.telemetry.logs import log_event

from . import documents
from .documents import Kind, Place
from .pins import Pin
from .representations import representations

__all__ = ["Damage", "Verification", "Verifier"]

_log = logging.getLogger("hotstart_proxy.verification")


@dataclass(frozen=True, slots=True)
class Damage:
    """One blob or document that was not what it must be, and is out of use.

    Attributes:
        store: URL of the store.
        name: content id of a blob, name of a document.
        reference: the file or version that it is of; None where no version is known that has it.
        size: bytes.
        problem: what was found, in words.
        refill: it is fetched again.
    """

    store: str
    name: str
    reference: str | None
    size: int
    problem: str
    refill: bool


@dataclass(slots=True)
class Verification:
    """What a look at everything came to.

    Attributes:
        unknown_blobs: blobs that nothing says the digests of: no version that is known here has them.
        failed: stores that could not be read to the end, each with the reason; only of several.
    """

    checked_blobs: int = 0
    checked_bytes: int = 0
    checked_documents: int = 0
    unknown_blobs: int = 0
    damaged: list[Damage] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Owner:
    """A representation that a blob is of."""

    model: str
    version: str
    path: str
    size: int
    is_published: bool


class _Unreadable(Exception):
    """A blob cannot be read to its end; never leaves this module."""


class _GaveWay(Exception):
    """The blob is wanted out of the store; never leaves this module."""


class _Reading:
    """One blob that is being read, until whoever evicts it is let through."""

    def __init__(self, content_id: str) -> None:
        self.id = content_id
        self.unwanted = asyncio.Event()
        self.ended = asyncio.Event()

    async def rest(self, seconds: float) -> None:
        """Pause, unless the blob is wanted out.

        Raises:
            _GaveWay
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.unwanted.wait()
        if self.unwanted.is_set():
            raise _GaveWay


class Verifier:
    """Verifies one store. One blob at a time, in a thread of its own, so that readers keep theirs."""

    def __init__(
        self,
        store: Store,
        observer: Observer,
        refill: Callable[[str, str, str], bool],
        restore: Callable[[Place], Awaitable[bool]],
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            store: what is looked at.
            observer: told what was read, and of damage.
            refill: begins to fetch a representation (model, version, path) again; False if it will not.
            restore: writes a document again that was removed; False if it cannot.
        """
        self._store = store
        self._observer = observer
        self._refill = refill
        self._restore = restore
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hotstart-verification")
        self._readings: set[_Reading] = set()

    async def give_way(self, content_id: str) -> None:
        """Read a blob no further that is about to be evicted, so that its space is free once it is."""
        for reading in [reading for reading in self._readings if reading.id == content_id]:
            reading.unwanted.set()
            await reading.ended.wait()

    def close(self) -> None:
        """Let the thread end; call once, when nothing is verified any more."""
        self._thread.shutdown(wait=False)

    async def verify(
        self, pace: Pace, after: str = "", on_progress: Callable[[str], Awaitable[None]] | None = None
    ) -> Verification:
        """Look at all documents, then at all blobs; take what is damaged out of use and fetch it again.

        Args:
            pace: how fast.
            after: the blob after which to begin; those before it come last.
            on_progress: awaited after each piece, with the blob that was last read to its end.

        Raises:
            StoreError: the store failed.
        """
        result = Verification()
        owners = await self._check_documents(result)
        for content_id in scrub_order(self._store.blobs(), after):
            owner = owners.get(content_id)

            async def progress(last: str = after) -> None:
                if on_progress is not None:
                    await on_progress(last)

            await self._check_blob(content_id, owner, pace, progress, result)
            after = content_id
        return result

    # Blobs

    async def _check_blob(
        self,
        content_id: str,
        owner: _Owner | None,
        pace: Pace,
        progress: Callable[[], Awaitable[None]],
        result: Verification,
    ) -> None:
        blob = await self._store.open_blob(content_id)
        if blob is None:
            # It has gone since the list was made.
            return
        is_out_of_use = False
        reading = _Reading(content_id)
        self._readings.add(reading)
        try:
            fault = await self._blob_fault(blob, reading, owner, pace, progress, result)
        except _GaveWay:
            return
        except Vanished as error:
            # The store has seen it by itself, and keeps what is sound of it.
            fault, is_out_of_use = error.reason, True
        finally:
            await blob.close()
            self._readings.discard(reading)
            reading.ended.set()
        result.checked_blobs += 1
        if fault is None or not (is_out_of_use or await self._store.quarantine(content_id)):
            return
        self._observer.healed(owner.model if owner is not None else "")
        refill = owner is not None and self._refill(owner.model, owner.version, owner.path)
        reference = None if owner is None else str(Reference(owner.model, owner.version, owner.path))
        self._found(result, Damage(self._store.url, content_id, reference, blob.size, fault, refill))

    async def _blob_fault(
        self,
        blob: Blob,
        reading: _Reading,
        owner: _Owner | None,
        pace: Pace,
        progress: Callable[[], Awaitable[None]],
        result: Verification,
    ) -> str | None:
        if owner is not None and owner.size != blob.size:
            return f"{blob.size} bytes where the manifest says {owner.size}"
        try:
            sha256, crc32 = await self._digests(blob, reading, pace, progress, result)
        except _Unreadable as error:
            return str(error)
        except Vanished:
            raise
        except StoreError as error:
            if self._store.trouble is not None:
                raise
            return error.reason
        learned = None if owner is None or owner.is_published else await self._learned(owner, blob)
        is_published = owner is not None and owner.is_published
        if not is_checked(blob.id, sha256, learned, is_published=is_published):
            result.unknown_blobs += 1
        return fault_of(blob.id, sha256, crc32, learned, is_published=is_published)

    async def _digests(
        self,
        blob: Blob,
        reading: _Reading,
        pace: Pace,
        progress: Callable[[], Awaitable[None]],
        result: Verification,
    ) -> tuple[str, list[int]]:
        whole, crc32s = hashlib.sha256(), []
        loop = asyncio.get_running_loop()
        for piece in range(piece_count(blob.size)):
            wanted = piece_range(piece, blob.size)
            began, crc32 = loop.time(), 0
            async for part in blob.parts(wanted):
                crc32 = await loop.run_in_executor(self._thread, _digest, part, whole, crc32)
            crc32s.append(crc32)
            result.checked_bytes += len(wanted)
            self._observer.verified(len(wanted))
            await progress()
            await reading.rest(pace.pause_seconds(len(wanted), loop.time() - began))
        return whole.hexdigest(), crc32s

    async def _learned(self, owner: _Owner, blob: Blob) -> tuple[int, ...] | None:
        data = await self._store.read_document(documents.pieces_name(owner.model, blob.id))
        if data is None:
            return None
        with contextlib.suppress(FormatError):
            return _parse_learned(data, blob.id, blob.size).crc32
        return None

    # Documents

    async def _check_documents(self, result: Verification) -> dict[str, _Owner]:
        """Check all documents; return what each blob is of, by the manifests among them."""
        owners: dict[str, _Owner] = {}
        indexes: dict[str, Index] = {}
        places = {name: documents.place_of(name) for name in await self._store.documents()}
        known = [(place.kind is not Kind.INDEX, name, place) for name, place in places.items() if place]
        for _, name, place in sorted(known, key=lambda item: item[:2]):
            data = await self._store.read_document(name)
            if data is None:
                continue
            result.checked_documents += 1
            try:
                parsed = await asyncio.to_thread(_parse, place, data, indexes, self._store.blobs())
            except FormatError as error:
                await self._remove(name, place, len(data), str(error), result)
                continue
            if isinstance(parsed, Index):
                indexes[place.model] = parsed
            elif isinstance(parsed, Manifest):
                for item in representations(parsed):
                    owners[item.id] = _Owner(
                        parsed.model, parsed.version, item.path, item.size, item.sha256 is not None
                    )
        return owners

    async def _remove(self, name: str, place: Place, size: int, fault: str, result: Verification) -> None:
        await self._store.delete_document(name)
        restored = await self._restore(place)
        version = None if place.kind in (Kind.INDEX, Kind.PIECES) else place.name
        reference = str(Reference(place.model, version))
        self._found(result, Damage(self._store.url, name, reference, size, fault, restored))

    def _found(self, result: Verification, damage: Damage) -> None:
        result.damaged.append(damage)
        log_event(
            _log,
            logging.WARNING,
            "damage at rest",
            {
                "store": damage.store,
                "name": damage.name,
                "reference": damage.reference,
                "bytes": damage.size,
                "problem": damage.problem,
                "refill": damage.refill,
            },
        )


def _digest(part: FileSlice | bytes, whole: Any, crc32: int) -> int:
    """Digest a part (in the thread); return the crc32 of the piece so far."""
    data = part if isinstance(part, bytes) else _read(part)
    whole.update(data)
    return zlib.crc32(data, crc32)


def _read(part: FileSlice) -> bytes:
    data = bytearray()
    while len(data) < part.length:
        try:
            more = os.pread(part.descriptor, part.length - len(data), part.offset + len(data))
        except OSError as error:
            raise _Unreadable(f"it cannot be read: {error.strerror}") from error
        if not more:
            raise _Unreadable(f"it ends after {part.offset + len(data)} bytes")
        data += more
    return bytes(data)


def _parse(
    place: Place, data: bytes, indexes: dict[str, Index], held: Mapping[str, int]
) -> Index | Manifest | None:
    """Parse a document and check that it is of what its name says.

    Raises:
        FormatError
    """
    match place.kind:
        case Kind.INDEX:
            index = Index.parse(data)
            _check(index.model == place.model, "index", f"it is of {index.model}")
            return index
        case Kind.MANIFEST:
            manifest = Manifest.parse(data)
            name = f"{manifest.model}@{manifest.version}"
            _check(name == f"{place.model}@{place.name}", "manifest", f"it is of {name}")
            entry = indexes[place.model].entry(place.name) if place.model in indexes else None
            expected = None if entry is None else entry.manifest_id
            found = sha256_id(data)
            _check(expected in (None, found), "manifest", f"its sha256 is {found}")
            return manifest
        case Kind.PIECES:
            if place.name in held:
                _parse_learned(data, place.name, held[place.name])
        case Kind.PIN:
            pin = Pin.parse(data)
            _check((pin.model, pin.version) == (place.model, place.name), "pin", f"it is of {pin.model}")
    return None


def _check(holds: bool, what: str, otherwise: str) -> None:
    if not holds:
        raise FormatError(what, otherwise)


def _parse_learned(data: bytes, content_id: str, size: int) -> Pieces:
    document = json_documents.load_json(data, "learned digests")
    _check(document.text("id") == content_id, document.what, f"they are of {document.text('id')}")
    return parse_pieces(document.member("pieces"), size)
