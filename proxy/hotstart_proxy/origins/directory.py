"""A directory as the origin: the same tree as files, the same conditions on writes by ``os.link`` and flock.

Names that begin ``.hotstart-`` are the origin's own (a lock, files being written); no listing shows them.
Symbolic links are followed as long as they stay inside the directory.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hotstart.wire.catalog import ListedObject, Listing, ObjectBytes
from hotstart.wire.digests import directory_etag
from hotstart.wire.manifest import OriginObject
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import RESERVED_PREFIX

from .base import (
    AlreadyExists,
    ObjectChanged,
    ObjectInfo,
    Origin,
    OriginDenied,
    OriginError,
    OriginIdentity,
    OriginUnreachable,
    PresignedUrl,
    UploadCleared,
)
from .probe import prove_conditions
from .threads import in_thread

__all__ = ["DirectoryOrigin"]

OWN_PREFIX = f"{RESERVED_PREFIX}-"
LOCK_NAME = f"{OWN_PREFIX}lock"
TEMPORARY_PREFIX = f"{OWN_PREFIX}tmp-"
# Nobody writes for so long without a pause; what is older was left by a crash.
TEMPORARY_SECONDS = 24 * 3600
READ_BYTES = 1024 * 1024
COPY_BYTES = 4 * 1024 * 1024
MAX_DOCUMENT_BYTES = 256 * 1024 * 1024

# The directory is there, and does not take it.
_HOPELESS = frozenset(
    (
        errno.EDQUOT,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EROFS,
    )
)

T = TypeVar("T")
# Clearing is over in an instant, and happens once a publish.
_PUT_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class _Temporary:
    """A file being written beside its target, under a name that no listing shows."""

    descriptor: int
    path: Path
    target: Path

    def discard(self) -> None:
        """Close it, and remove its temporary name if it still has it."""
        os.close(self.descriptor)
        self.path.unlink(missing_ok=True)


class DirectoryOrigin(Origin):
    """One directory, on a local or shared filesystem. It never pre-signs."""

    can_presign = False

    def __init__(self, root: Path) -> None:
        """Use the directory root, an absolute path. It need not exist: publishing creates it."""
        self.url = root.as_uri()
        self.identity = OriginIdentity("file://", str(root), "")
        self._root = root

    async def __aenter__(self) -> DirectoryOrigin:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def _call(self, doing: str, function: Callable[..., T], *arguments: object) -> T:
        with self._translated(doing):
            return await in_thread(function, *arguments)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise OriginDenied(self.url, doing, str(error)) from error
        except OSError as error:
            if error.errno in _HOPELESS:
                raise OriginError(self.url, doing, str(error)) from error
            raise OriginUnreachable(self.url, doing, str(error)) from error

    def _real_root(self) -> Path:
        if not self._root.is_dir():
            # A volume that is not mounted is "cannot"; an empty answer would say that all models are gone.
            raise OriginUnreachable(
                self.url, "opening it", f"{self._root} is no directory: create or mount it"
            )
        return _real(self._root)

    def _inside(self, key: str, *, follow: bool = True) -> Path:
        """Return the real path of key.

        Args:
            key: relative, of plain segments.
            follow: where the last segment is a link, return what it leads to.

        Raises:
            OriginDenied: it lies outside, or is a name of the origin's own.
        """
        segments = key.split("/")
        if any(part in ("", ".", "..") or "\0" in part or part.startswith(OWN_PREFIX) for part in segments):
            raise OriginDenied(self.url, f"looking for {key[:200]!r}", "it is not a plain relative key")
        root = self._real_root()
        path = root.joinpath(*segments)
        path = _real(path) if follow else _real(path.parent) / path.name
        if not path.is_relative_to(root):
            raise OriginDenied(self.url, f"looking for {key}", "a link in it leads out of the directory")
        return path

    def _open(self, key: str) -> int | None:
        try:
            # Not following: a link put there since the path was resolved must not lead out. Not blocking: a
            # FIFO must not wait for a writer.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self._inside(key), flags)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return descriptor

    def _begin(self, key: str) -> _Temporary:
        self._root.mkdir(parents=True, exist_ok=True)
        target = self._inside(key, follow=False)
        path = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        for attempts_left in (2, 1, 0):
            try:
                _make_folders(target.parent)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                # Somebody deleted the folder's last file, and the folder with it.
                if not attempts_left:
                    raise
            else:
                break
        _remove_leftovers(target.parent)
        return _Temporary(descriptor, path, target)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers out, of other processes too; closing the file gives the lock back."""
        descriptor = os.open(self._real_root() / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    async def read(self, key: str, known_etag: str | None = None) -> ObjectBytes | None:
        return await self._call(f"reading {key}", self._read, key, known_etag)

    def _read(self, key: str, known_etag: str | None) -> ObjectBytes | None:
        descriptor = self._open(key)
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if _etag(found) == known_etag:
                return ObjectBytes(None, known_etag, _modified(found))
            if found.st_size > MAX_DOCUMENT_BYTES:
                reason = f"{found.st_size} bytes: expected at most {MAX_DOCUMENT_BYTES}"
                raise OriginError(self.url, f"reading {key}", reason)
            return ObjectBytes(file.read(), _etag(found), _modified(found))

    @asynccontextmanager
    async def get(self, item: OriginObject, wanted: ByteRange) -> AsyncIterator[AsyncIterator[bytes]]:
        doing = f"reading bytes {wanted.start} to {wanted.stop} of {item.key}"
        descriptor = await self._call(doing, self._open, item.key)
        if descriptor is None:
            raise ObjectChanged(self.url, doing, "there is no such file any more")
        try:
            self._check(descriptor, item, wanted, doing)
            yield self._chunks(descriptor, item, wanted, doing)
        finally:
            os.close(descriptor)

    async def _chunks(
        self, descriptor: int, item: OriginObject, wanted: ByteRange, doing: str
    ) -> AsyncIterator[bytes]:
        position = wanted.start
        while position < wanted.stop:
            length = min(READ_BYTES, wanted.stop - position)
            chunk = await self._call(doing, os.pread, descriptor, length, position)
            # After the read: who wrote to the file before it has moved its time of modification.
            self._check(descriptor, item, wanted, doing)
            if not chunk:
                raise OriginUnreachable(self.url, doing, f"the file ended at byte {position}, too early")
            position += len(chunk)
            yield chunk

    def _check(self, descriptor: int, item: OriginObject, wanted: ByteRange, doing: str) -> None:
        found = os.fstat(descriptor)
        if _etag(found) != item.etag:
            raise ObjectChanged(self.url, doing, "it was replaced or written to")
        if found.st_size < wanted.stop:
            raise ObjectChanged(self.url, doing, f"the file has {found.st_size} bytes only")

    async def head(self, key: str) -> ObjectInfo | None:
        """Describe an object; its metadata is the sha256 of its bytes, read for the purpose.

        A directory has no place for metadata that follows a file everywhere; what is asked of them is whether
        an upload that is there already has the right bytes, and that the bytes themselves tell.
        """
        return await self._call(f"looking at {key}", self._head, key)

    def _head(self, key: str) -> ObjectInfo | None:
        descriptor = self._open(key)
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if _etag(os.fstat(descriptor)) != _etag(found):
                raise ObjectChanged(self.url, f"looking at {key}", "it is being written to")
        return ObjectInfo(key, found.st_size, _etag(found), _modified(found), metadata={"sha256": sha256})

    async def list(self, prefix: str, *, recursive: bool) -> Listing:
        return await self._call(f"listing {prefix or 'everything'}", self._list, prefix, recursive)

    def _list(self, prefix: str, recursive: bool) -> Listing:
        objects: list[ListedObject] = []
        folders: list[str] = []
        folder = self._inside(prefix.rstrip("/")) if prefix else self._real_root()
        _walk(self._real_root(), folder, prefix, objects, None if recursive else folders, ())
        return Listing(tuple(sorted(objects, key=lambda item: item.key)), tuple(sorted(folders)))

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        create_only: bool = False,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
        media_type: str = "application/octet-stream",
    ) -> ObjectInfo:
        return await self._call(f"writing {key}", self._put, key, data, create_only, if_match)

    def _put(self, key: str, data: bytes, create_only: bool, if_match: str | None) -> ObjectInfo:
        # Whoever clears uploads away may take this one's temporary file; the bytes are here to write again.
        for _ in range(_PUT_ATTEMPTS - 1):
            try:
                return self._put_once(key, data, create_only, if_match)
            except UploadCleared:
                pass
        return self._put_once(key, data, create_only, if_match)

    def _put_once(self, key: str, data: bytes, create_only: bool, if_match: str | None) -> ObjectInfo:
        temporary = self._begin(key)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(temporary.descriptor, view) :]
            if create_only:
                return self._create(key, temporary)
            os.fsync(temporary.descriptor)
            with self._locked():
                if if_match is not None:
                    self._check_etag(key, temporary.target, if_match)
                _make_newer(temporary.descriptor, temporary.target)
                try:
                    temporary.path.replace(temporary.target)
                except FileNotFoundError as error:
                    raise self._cleared(key) from error
            _sync_folder(temporary.target.parent)
            return _info(key, os.fstat(temporary.descriptor))
        finally:
            temporary.discard()

    def _check_etag(self, key: str, target: Path, if_match: str) -> None:
        try:
            etag = _etag(target.stat())
        except FileNotFoundError:
            etag = None
        if etag != if_match:
            raise ObjectChanged(self.url, f"writing {key}", "it was replaced or deleted meanwhile")

    def _create(self, key: str, temporary: _Temporary) -> ObjectInfo:
        """Make a finished temporary file visible, if nothing is there."""
        os.fsync(temporary.descriptor)
        found = os.fstat(temporary.descriptor)
        try:
            os.link(temporary.path, temporary.target, follow_symlinks=False)
        except FileExistsError as error:
            raise AlreadyExists(self.url, f"writing {key}", "there is such a file") from error
        except FileNotFoundError as error:
            raise self._cleared(key) from error
        _sync_folder(temporary.target.parent)
        return _info(key, found)

    def _cleared(self, key: str) -> UploadCleared:
        return UploadCleared(self.url, f"writing {key}", "its temporary file was cleared away meanwhile")

    async def upload(
        self,
        key: str,
        source: Path,
        *,
        metadata: Mapping[str, str],
        media_type: str,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        doing = f"copying {source} to {key}"
        try:
            file = await in_thread(_open_source, source)
        except OSError as error:
            raise OriginError(self.url, doing, str(error)) from error
        try:
            temporary = await self._call(doing, self._begin, key)
            try:
                while count := await self._call(doing, _copy_some, file, temporary.descriptor):
                    if progress is not None:
                        progress(count)
                return await self._call(doing, self._create, key, temporary)
            finally:
                await in_thread(temporary.discard)
        finally:
            os.close(file)

    async def clear_uploads(self, prefix: str) -> None:
        await self._call(f"clearing unfinished uploads below {prefix}", self._clear_uploads, prefix)

    def _clear_uploads(self, prefix: str) -> None:
        for folder, _, names in os.walk(self._inside(prefix.rstrip("/")), topdown=False):
            for name in names:
                if name.startswith(TEMPORARY_PREFIX):
                    Path(folder, name).unlink(missing_ok=True)
            self._remove_empty_folders(Path(folder))

    async def delete(self, key: str) -> None:
        await self._call(f"deleting {key}", self._delete, key)

    def _delete(self, key: str) -> None:
        path = self._inside(key, follow=False)
        try:
            with self._locked():
                path.unlink()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        self._remove_empty_folders(path.parent)

    def _remove_empty_folders(self, folder: Path) -> None:
        """Leave no folders where no objects are: a bucket has none either."""
        root = self._real_root()
        while folder != root and folder.is_relative_to(root):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    async def presign(self, item: OriginObject, expires_in_seconds: int) -> PresignedUrl | None:
        return None

    async def check_publishable(self) -> None:
        await prove_conditions(self)


def _walk(
    root: Path,
    folder: Path,
    prefix: str,
    objects: list[ListedObject],
    folders: list[str] | None,
    above: tuple[tuple[int, int], ...],
) -> None:
    try:
        status = folder.stat()
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return  # a link to a folder that it lies in
    for name in names:
        if name.startswith(OWN_PREFIX):
            continue
        # What is no UTF-8 shows with backslashes, and can be no valid name.
        key = prefix + os.fsencode(name).decode("utf-8", "backslashreplace")
        path = folder / name
        try:
            if path.is_symlink() and not _real(path).is_relative_to(root):
                continue
            found = path.stat()
        except OSError:
            continue  # gone meanwhile, or a link to nowhere
        if stat.S_ISREG(found.st_mode):
            objects.append(ListedObject(key, found.st_size, _etag(found), _modified(found)))
        elif stat.S_ISDIR(found.st_mode):
            if folders is not None:
                folders.append(f"{key}/")
            else:
                _walk(root, path, f"{key}/", objects, None, (*above, here))


def _real(path: Path) -> Path:
    # Unlike Path.resolve, realpath raises nothing where links go in a circle; opening does.
    return Path(os.path.realpath(path))


def _etag(found: os.stat_result) -> str:
    return directory_etag(found.st_mtime_ns, found.st_size, found.st_ino)


def _modified(found: os.stat_result) -> int:
    return found.st_mtime_ns // 1_000_000


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, found.st_size, _etag(found), _modified(found))


def _open_source(source: Path) -> int:
    return os.open(source, os.O_RDONLY | os.O_CLOEXEC)


def _copy_some(source: int, target: int) -> int:
    """Copy a few MiB from where both files stand; return how many bytes, 0 at the end."""
    data = os.read(source, COPY_BYTES)
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return len(data)


def _make_newer(descriptor: int, target: Path) -> None:
    """Move a file's time past that of the one it replaces.

    Clocks of filesystems tick every few milliseconds, and inodes are used again: two quick replacements could
    give back the ETag of the first file, and a compare-and-swap would take the third for it.
    """
    try:
        before = target.stat().st_mtime_ns
    except FileNotFoundError:
        return
    found = os.fstat(descriptor)
    if found.st_mtime_ns <= before:
        os.utime(descriptor, ns=(found.st_atime_ns, before + 1))


def _make_folders(folder: Path) -> None:
    """Make folder and those above it, durably."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        try:
            if path.stat().st_mtime < time.time() - TEMPORARY_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue
