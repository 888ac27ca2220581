"""The shared volume: a read-only mount of the proxy's store, whose blobs are mapped rather than moved."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

from hotstart.wire.digests import is_content_id
from hotstart.wire.manifest import File, Representation
from hotstart.wire.ranges import ByteRange

from .base import Body, Session, Source, SourceError, SourceKind

__all__ = ["MappedBlob", "SharedVolume"]

# What the disk store of layout 1 writes into its file "format".
FORMAT_LINE = b"hotstart disk store, layout 1\n"


class MappedBlob:
    """A blob mapped privately, under a shared lock that lasts as long as the mapping.

    mmap keeps a duplicate of the descriptor until it is freed, which is when the last view of it dies; and
    the lock belongs to the open file that the duplicate stands for. So the lock needs no keeper of its own.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        """Map an open and locked file; the descriptor stays the caller's to close."""
        # An empty file cannot be mapped, and has nothing to protect.
        data: mmap.mmap | bytearray = bytearray()
        if size:
            data = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
        self._view: memoryview | None = memoryview(data)

    @property
    def view(self) -> memoryview:
        """All bytes of the blob, writeable without changing it.

        Raises:
            ValueError: closed.
        """
        if self._view is None:
            raise ValueError("the mapping was closed")
        return self._view

    def close(self) -> None:
        """Drop our own reference; mapping and lock stay while views of it live."""
        self._view = None


class SharedVolume(Source):
    """A store's directory, as mounted here. Blobs come and go while a proxy fills and evicts."""

    kind = SourceKind.SHARED
    is_local = True

    def __init__(self, directory: str) -> None:
        """Look at the store.

        Args:
            directory: absolute path of the mount.

        Raises:
            SourceError: there is no store of a layout that is known.
        """
        self.name = f"shared volume {directory}"
        self._root = Path(directory)
        doing = "opening it"
        try:
            with (self._root / "format").open("rb") as file:
                found = file.read(len(FORMAT_LINE) + 1)
        except OSError as error:
            reason = f"no store there: {error.strerror} ({error.filename})"
            raise SourceError(self.name, doing, reason, transient=False) from error
        if found != FORMAT_LINE:
            reason = (
                f"its format is {found!r}, expected {FORMAT_LINE!r}: upgrade hotstart here or at the proxy"
            )
            raise SourceError(self.name, doing, reason, transient=False)

    def has(self, representation: Representation) -> bool:
        """Tell whether the blob is there now."""
        try:
            path = self.path(representation)
            return path.stat(follow_symlinks=False).st_size == representation.size
        except OSError:
            return False

    def session(self) -> Session:
        return _SharedSession(self)

    def map(self, representation: Representation) -> MappedBlob | None:
        """Return the blob mapped; None if it is not there, or is being evicted."""
        descriptor = self.open(representation)
        if descriptor is None:
            return None
        try:
            return MappedBlob(descriptor, representation.size)
        except (OSError, ValueError):
            # No address space, a file system that cannot, or a file cut short meanwhile: the socket can.
            return None
        finally:
            os.close(descriptor)

    def open(self, representation: Representation) -> int | None:
        """Return a descriptor, the caller's to close, that holds a shared lock; None if it is not there."""
        try:
            descriptor = os.open(self.path(representation), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            # Not waited for: whoever holds the exclusive lock is about to unlink the blob.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            found = os.fstat(descriptor)
            if found.st_nlink and found.st_size == representation.size:
                return descriptor
        except OSError:
            pass
        os.close(descriptor)
        return None

    def path(self, representation: Representation) -> Path:
        """Return where the blob is, if it is there; only ``open`` keeps it there."""
        # The manifest's parser checked it; it is a path here, so once more.
        assert is_content_id(representation.id)
        return self._root / "blobs" / representation.id[:2] / representation.id


class _SharedSession(Session):
    def __init__(self, volume: SharedVolume) -> None:
        self._volume = volume
        self.is_closed = False

    def fetch(self, file: File, representation: Representation, wanted: ByteRange) -> Body:
        doing = f"reading bytes {wanted.start} to {wanted.stop} of {representation.path}"
        descriptor = self._volume.open(representation)
        if descriptor is None:
            raise SourceError(self._volume.name, doing, "the blob is not there", transient=False)
        return _BlobBody(self, self._volume.name, descriptor, wanted, doing)

    def close(self) -> None:
        self.is_closed = True


class _BlobBody(Body):
    def __init__(
        self, session: _SharedSession, source: str, descriptor: int, wanted: ByteRange, doing: str
    ) -> None:
        self.length = len(wanted)
        self._session = session
        self._source = source
        self._descriptor: int | None = descriptor
        self._at = wanted.start
        self._stop = wanted.stop
        self._doing = doing

    def readinto(self, buffer: memoryview) -> int:
        if self._at == self._stop:
            return 0
        if self._session.is_closed or self._descriptor is None:
            raise self._failure("it was closed from our side")
        try:
            count = os.preadv(self._descriptor, [buffer[: self._stop - self._at]], self._at)
        except OSError as error:
            raise self._failure(error.strerror or str(error)) from error
        if not count:
            raise self._failure("the blob is cut short")
        self._at += count
        return count

    def _failure(self, reason: str) -> SourceError:
        return SourceError(self._source, self._doing, reason, transient=False)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
