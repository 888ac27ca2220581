"""Disk layout 1: which file of a store lies where, and how files come to be there.

::

    format              "hotstart disk store, layout 1"
    blobs/ab/<id>       complete blobs, 0444, only ever unlinked
    fills/<id>.part     a blob being filled, at its full size
    fills/<id>.map      which of its pieces are verified
    fills/<random>.tmp  a document on its way to models/
    models/<name>       small documents

Folders are 0755 whatever the umask, so that functions of other users can map blobs.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "FORMAT_LINE",
    "Folders",
    "lock_file",
    "make_folder",
    "sync_folder",
    "write_all",
    "write_atomically",
]

FORMAT_LINE = "hotstart disk store, layout 1\n"
_FOLDER_MODE = 0o755
_DOCUMENT_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Folders:
    """The paths of a store under its root."""

    root: Path

    @property
    def format(self) -> Path:
        return self.root / "format"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def fills(self) -> Path:
        return self.root / "fills"

    @property
    def models(self) -> Path:
        return self.root / "models"

    def blob(self, content_id: str) -> Path:
        return self.blobs / content_id[:2] / content_id

    def part(self, content_id: str) -> Path:
        return self.fills / f"{content_id}.part"

    def map(self, content_id: str) -> Path:
        return self.fills / f"{content_id}.map"

    def temporary(self) -> Path:
        return self.fills / f"{secrets.token_hex(8)}.tmp"


def make_folder(path: Path) -> bool:
    """Make a folder and its missing parents, each 0755; False if it was there."""
    if path.is_dir():
        return False
    if path != path.parent:
        make_folder(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        if path.is_dir():
            return False
        raise
    path.chmod(_FOLDER_MODE)
    return True


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(descriptor: int, *, shared: bool = False) -> bool:
    """Take a file's lock without waiting; False if another open file holds it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_atomically(temporary: Path, path: Path, data: bytes) -> None:
    """Write a file under a temporary name of the same filesystem, make it durable, and move it into place."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _DOCUMENT_MODE)
    try:
        # Held so that a store opened meanwhile by another process does not take it for a leftover.
        lock_file(descriptor)
        os.fchmod(descriptor, _DOCUMENT_MODE)
        write_all(descriptor, data, 0)
        os.fsync(descriptor)
        make_folder(path.parent)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def write_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of data at offset, however many calls it takes."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
