"""A directory as the origin, read by the client itself.

What counts as part of it is what the proxy's own reader of directories takes: names that begin ``.hotstart-``
are files being written, and symbolic links are followed as long as they stay inside.
"""

from __future__ import annotations

import io
import os
import stat

from hotstart.wire.catalog import ListedObject, Listing, ObjectBytes
from hotstart.wire.digests import directory_etag
from hotstart.wire.manifest import File, Representation
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import RESERVED_PREFIX

from .base import Body, Session, SourceError
from .origin import MAX_DOCUMENT_BYTES, Origin, OriginReader

__all__ = ["DirectoryOrigin"]


OWN_PREFIX = f"{RESERVED_PREFIX}-"


def _etag(found: os.stat_result) -> str:
    return directory_etag(found.st_mtime_ns, found.st_size, found.st_ino)


def _modified(found: os.stat_result) -> int:
    return found.st_mtime_ns // 1_000_000


def _open_regular(path: str, flags: int) -> int:
    # Not following: a link put there since the path was resolved must not lead out. Not blocking: a FIFO must
    # not wait for a writer.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


class DirectoryOrigin(Origin):
    """A directory tree in origin layout 1."""

    is_local = True
    endpoint = "file://"
    prefix = ""

    def __init__(self, directory: str) -> None:
        """Read below directory, an absolute path."""
        self.url = f"file://{directory}"
        self.name = f"origin {self.url}"
        self.bucket = directory
        self._root = directory

    def has(self, representation: Representation) -> bool:
        return True

    def session(self) -> Session:
        return _FileSession(self)

    def open(self, key: str, doing: str) -> io.FileIO | None:
        """Open an object; None if there is none.

        Raises:
            SourceError: it cannot be read, or the directory itself is not there.
        """
        try:
            file = io.FileIO(self.inside(key, doing), opener=_open_regular)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self.check_root(doing)
            return None
        except OSError as error:
            raise self.failure(doing, error) from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            return None
        return file

    def inside(self, key: str, doing: str) -> str:
        """Return the real path of a key, or of the root for an empty one.

        Raises:
            SourceError: a link in it leads out of the directory, or it is no plain relative key.
        """
        if any(part in (".", "..") or part.startswith(OWN_PREFIX) for part in key.split("/")) or "\0" in key:
            raise SourceError(self.name, doing, f"{key[:200]!r} is not a plain relative key", transient=False)
        root = os.path.realpath(self._root)
        path = os.path.realpath(os.path.join(root, key))
        if path != root and not path.startswith(root.rstrip("/") + "/"):
            raise SourceError(self.name, doing, f"a link in {key} leads out of it", transient=False)
        return path

    def check_root(self, doing: str) -> None:
        # An unmounted volume is "cannot", and must not look like "there is no such model".
        if not os.path.isdir(self._root):
            raise SourceError(self.name, doing, "there is no such directory", transient=False)

    def failure(self, doing: str, error: OSError) -> SourceError:
        """Return what an error of the file system means to a caller."""
        return SourceError(self.name, doing, str(error), transient=False)

    def reader(self, doing: str) -> OriginReader:
        return _DirectoryReader(self, doing)


class _DirectoryReader(OriginReader):
    def __init__(self, origin: DirectoryOrigin, doing: str) -> None:
        self._origin = origin
        self._doing = doing

    def close(self) -> None:
        pass

    def read(self, key: str, known_etag: str | None) -> ObjectBytes | None:
        file = self._origin.open(key, self._doing)
        if file is None:
            return None
        with file:
            found = os.fstat(file.fileno())
            etag, last_modified = _etag(found), _modified(found)
            if etag == known_etag:
                return ObjectBytes(None, etag, last_modified)
            if found.st_size > MAX_DOCUMENT_BYTES:
                reason = f"{key} has {found.st_size} bytes: expected at most {MAX_DOCUMENT_BYTES}"
                raise SourceError(self._origin.name, self._doing, reason, transient=False)
            try:
                return ObjectBytes(file.readall(), etag, last_modified)
            except OSError as error:
                raise self._origin.failure(self._doing, error) from error

    def listing(self, prefix: str, *, recursive: bool) -> Listing:
        objects: list[ListedObject] = []
        folders: list[str] = []
        try:
            folder = self._origin.inside(prefix.rstrip("/"), self._doing)
            root = self._origin.inside("", self._doing)
            _walk(root, folder, prefix, objects, None if recursive else folders, ())
        except OSError as error:
            raise self._origin.failure(self._doing, error) from error
        if not objects and not folders:
            self._origin.check_root(self._doing)
        return Listing(tuple(sorted(objects, key=lambda item: item.key)), tuple(sorted(folders)))


def _walk(
    root: str,
    folder: str,
    prefix: str,
    objects: list[ListedObject],
    folders: list[str] | None,
    above: tuple[tuple[int, int], ...],
) -> None:
    """Gather what lies in folder; in all folders below it too, unless they are wanted as such."""
    try:
        status = os.stat(folder)
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        # A link to a folder that it lies in.
        return
    for name in names:
        if name.startswith(OWN_PREFIX):
            continue
        # What is no UTF-8 shows with backslashes, and can be no valid name.
        key = prefix + os.fsencode(name).decode("utf-8", "backslashreplace")
        path = os.path.join(folder, name)
        try:
            if os.path.islink(path) and not os.path.realpath(path).startswith(root.rstrip("/") + "/"):
                continue
            found = os.stat(path)
        except OSError:
            # Gone meanwhile, or a link to nowhere.
            continue
        if stat.S_ISREG(found.st_mode):
            objects.append(ListedObject(key, found.st_size, _etag(found), _modified(found)))
        elif stat.S_ISDIR(found.st_mode):
            if folders is not None:
                folders.append(f"{key}/")
            else:
                _walk(root, path, f"{key}/", objects, None, (*above, here))


class _FileSession(Session):
    def __init__(self, origin: DirectoryOrigin) -> None:
        self._origin = origin
        self.is_closed = False

    def fetch(self, file: File, representation: Representation, wanted: ByteRange) -> Body:
        key = representation.origin.key
        doing = f"reading bytes {wanted.start} to {wanted.stop} of {key}"
        opened = self._origin.open(key, doing)
        if opened is None:
            raise SourceError(self._origin.name, doing, "there is no such file any more", transient=False)
        try:
            body = _FileBody(self, self._origin, opened, representation, wanted, doing)
            body.check_unchanged()
            opened.seek(wanted.start)
        except BaseException:
            opened.close()
            raise
        return body

    def close(self) -> None:
        self.is_closed = True


class _FileBody(Body):
    def __init__(
        self,
        session: _FileSession,
        origin: DirectoryOrigin,
        file: io.FileIO,
        representation: Representation,
        wanted: ByteRange,
        doing: str,
    ) -> None:
        self.length = len(wanted)
        self._left = self.length
        self._session = session
        self._origin = origin
        self._file = file
        self._representation = representation
        self._doing = doing

    def check_unchanged(self) -> None:
        """Compare the open file with the manifest.

        Raises:
            SourceError: it is another file, or was written to.
        """
        found = os.fstat(self._file.fileno())
        if found.st_size != self._representation.size or _etag(found) != self._representation.origin.etag:
            raise SourceError(
                self._origin.name,
                self._doing,
                "the file was replaced, written to or copied since it was published or adopted",
                transient=False,
            )

    def readinto(self, buffer: memoryview) -> int:
        if not self._left:
            return 0
        if self._session.is_closed:
            raise SourceError(self._origin.name, self._doing, "it was closed from our side", transient=False)
        try:
            count = self._file.readinto(buffer[: self._left])
        except OSError as error:
            raise self._origin.failure(self._doing, error) from error
        # After the read: whatever was written before it has moved the file's time.
        self.check_unchanged()
        if not count:
            raise SourceError(self._origin.name, self._doing, "the file is cut short", transient=False)
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
