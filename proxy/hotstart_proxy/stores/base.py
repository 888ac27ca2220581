"""The store: where the proxy keeps its copies. Absent is None; nothing is visible before commit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from dataclasses import dataclass

from hotstart.wire.errors import HotstartError
from hotstart.wire.pieces import Pieces
from hotstart.wire.ranges import ByteRange

__all__ = [
    "Blob",
    "BlobBusy",
    "FileSlice",
    "NeverFits",
    "NoSpaceNow",
    "PartialBlob",
    "Store",
    "StoreError",
    "Usage",
    "Vanished",
]


class StoreError(HotstartError):
    """The store failed.

    Attributes:
        store: its URL, without credentials.
        doing: what was attempted.
        reason: what happened.
    """

    def __init__(self, store: str, doing: str, reason: str) -> None:
        self.store = store
        self.doing = doing
        self.reason = reason
        super().__init__(f"{store}: {doing}: {reason}")


class NeverFits(StoreError):
    """A blob is larger than the whole budget."""


class NoSpaceNow(StoreError):
    """A blob does not fit beside what may not be evicted now."""


class BlobBusy(StoreError):
    """A blob is being filled already, by this process, or by another that does not share its fills."""


class Vanished(StoreError):
    """What was read or filled is no longer in the store: removed by another process, or lost by the store.

    Nothing fails: the store knows by now what is missing, and the next fill fetches that alone.
    """


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes of an open file, for sendfile.

    Attributes:
        descriptor: owned by the blob it came from; valid until that is closed.
        offset: of the first byte in the file.
        length: bytes.
    """

    descriptor: int
    offset: int
    length: int


class Blob(ABC):
    """A complete blob, open for reading. Deleting it does not disturb whoever has it open."""

    id: str
    size: int

    def whole(self, wanted: ByteRange) -> FileSlice | None:
        """Return the wanted bytes as one slice, where they are that; else ``parts`` gives them."""
        return None

    @abstractmethod
    def parts(self, wanted: ByteRange) -> AsyncIterator[FileSlice | bytes]:
        """Yield the wanted bytes in order, as slices where the store has files, else as chunks."""

    @abstractmethod
    async def close(self) -> None:
        """Let go; idempotent."""


class PartialBlob(ABC):
    """A blob being filled: its space is reserved, its verified pieces can be read at once.

    Several processes may fill one blob together, each with a partial blob of its own: whoever claims a piece
    fetches it, the others find it left. A claim lasts until its piece is written or released, or until the
    process is gone, whatever way it went: then somebody else may claim the piece.

    Pieces that others have written (an earlier fill, or another process now) are verified when they are
    needed, not all at the start: a reader of a large blob would wait for seconds. So no process trusts what
    another has verified.
    """

    id: str
    size: int
    poll_seconds: float
    """How often refresh is worth a call while others fill."""
    done: Sequence[bool]
    """One flag a piece: it is verified, and may be read."""
    left: Sequence[bool]
    """One flag a piece: somebody else has written it, and nobody here has looked at it since."""
    crc32: Sequence[int]
    """One value a piece, meaningful where done: what an adopted file's digests are learned from."""

    @abstractmethod
    async def claim(self, pieces: Sequence[int]) -> Sequence[int]:
        """Claim those of these pieces (rising) that are neither done, nor left, nor claimed by others.

        What comes back is this process's to write; of a piece that does not, refresh says when to try again.

        Raises:
            StoreError: the store failed; nothing is claimed.
        """

    @abstractmethod
    async def release(self, pieces: Sequence[int]) -> None:
        """Give claimed pieces back that will not be written; those that were written are ignored."""

    @abstractmethod
    async def refresh(self) -> Set[int]:
        """Learn what others have done: left is set for what they wrote.

        Returns:
            The pieces that others have claimed at this moment.

        Raises:
            StoreError: the store failed.
        """

    @abstractmethod
    async def recover(self, piece: int) -> bool:
        """Verify a piece that is left: done if it is what it was, else missing like any other.

        Raises:
            StoreError: the store failed.
        """

    @abstractmethod
    async def write(self, piece: int, data: bytes | bytearray | memoryview, crc32: int) -> None:
        """Keep one whole piece that the caller has verified (crc32 is of data)."""

    @abstractmethod
    def parts(self, wanted: ByteRange) -> AsyncIterator[FileSlice | bytes]:
        """Yield wanted bytes, all of which lie in pieces that are done."""

    @abstractmethod
    async def commit(self, sha256: str | None) -> None:
        """Make the blob visible, atomically and durably, once every piece is done.

        Where another process has committed it already, that is this one's commit too; where one is about to,
        this waits for it. The partial blob stays readable until it is closed.

        Raises:
            IntegrityError: the whole has another sha256; the partial blob is discarded.
            StoreError: the store failed; nothing is visible.
        """

    @abstractmethod
    async def discard(self) -> None:
        """Give up what was filled, so that a new fill begins from nothing; readable until closed. Idempotent.

        Other processes that fill it go on. Its space is free once all have closed it.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go; unless committed or discarded, verified pieces stay for a later fill to resume. Idempotent.

        Nothing that parts gave may be used any more.
        """


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes and blobs, fills in progress included in used_bytes."""

    budget_bytes: int
    used_bytes: int
    blobs: int


class Store(ABC):
    """One store. Safe for concurrent use by the tasks of one event loop; use as an async context manager."""

    url: str

    @abstractmethod
    async def __aenter__(self) -> Store: ...

    @abstractmethod
    async def __aexit__(self, *exc_info: object) -> None: ...

    @abstractmethod
    async def open_blob(self, content_id: str) -> Blob | None:
        """Open a complete blob; None if there is none."""

    @abstractmethod
    async def begin_fill(self, content_id: str, size: int, pieces: Pieces | None) -> PartialBlob | None:
        """Reserve space, or take up what an earlier fill left, or join in what another process fills.

        pieces are the announced digests, which what was left must have; None for an adopted file.

        Returns:
            None where the blob is complete by now: another process has committed it.

        Raises:
            NeverFits, NoSpaceNow: nothing was reserved.
            BlobBusy: this process is filling it already, or another one is where fills are not shared.
            StoreError: the store failed.
        """

    @abstractmethod
    async def drop_partials(self, idle_seconds: float) -> int:
        """Drop partial blobs that nobody fills and that were last written so long ago; return bytes freed.

        Likewise what has been in quarantine for so long.
        """

    @abstractmethod
    async def delete(self, content_id: str) -> bool:
        """Remove a blob; False if there is none or it is in use by another process (mapped).

        Whoever has it open here goes on reading; its space is free once all have closed it.
        """

    @abstractmethod
    async def quarantine(self, content_id: str) -> bool:
        """Take a blob out of use that is not what its id says; False if there is none.

        Nobody finds it under its id any more, whoever has it mapped or open reads on, and it can be filled
        again at once. Where the store keeps it aside for a look, it stays in the budget and goes first.
        """

    @abstractmethod
    async def refresh(self) -> None:
        """Learn what other processes on the same store have added and removed, and drop what is stale.

        Raises:
            StoreError: the store failed.
        """

    @property
    @abstractmethod
    def trouble(self) -> str | None:
        """Say what of the store does not work at present, from memory; None if all does."""

    @abstractmethod
    def blobs(self) -> Mapping[str, int]:
        """Return the size of every complete blob by content id, from memory."""

    @abstractmethod
    def usage(self) -> Usage:
        """Return the present sums, from memory."""

    @abstractmethod
    async def read_document(self, name: str) -> bytes | None:
        """Read a small document kept under ``models/``; None if there is none."""

    @abstractmethod
    async def write_document(self, name: str, data: bytes) -> None:
        """Keep a small document, replaced atomically; name is relative, like ``org/bert/index.json``."""

    @abstractmethod
    async def delete_document(self, name: str) -> None:
        """Remove a document; no error if there is none."""

    @abstractmethod
    async def documents(self) -> Sequence[str]:
        """Return the names of all documents."""
