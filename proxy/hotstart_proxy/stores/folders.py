"""Disk layout 1: which file of a store lies where, and how files come to be there.

::

    format              "hotstart disk store, layout 1"
    blobs/ab/<id>       complete blobs, 0444, only ever unlinked or moved to quarantine/
    fills/<id>.part     a blob being filled, at its full size
    fills/<id>.map      which of its pieces are verified
    fills/<random>.tmp  a document on its way to models/
    models/<name>       small documents
    quarantine/<id>     blobs that were found damaged

Folders are 0755 whatever the umask, so that functions of other users can map blobs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from .system import System

__all__ = [
    "FORMAT_LINE",
    "Folders",
    "make_folder",
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

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    def blob(self, content_id: str) -> Path:
        return self.blobs / content_id[:2] / content_id

    def part(self, content_id: str) -> Path:
        return self.fills / f"{content_id}.part"

    def map(self, content_id: str) -> Path:
        return self.fills / f"{content_id}.map"

    def aside(self, content_id: str) -> Path:
        return self.quarantine / content_id

    def temporary(self) -> Path:
        return self.fills / f"{secrets.token_hex(8)}.tmp"


def make_folder(system: System, path: Path) -> bool:
    """Make a folder and its missing parents, each 0755 and its name durable; False if it was there."""
    if path.is_dir():
        return False
    if path != path.parent:
        make_folder(system, path.parent)
    try:
        system.make_folder(path)
    except FileExistsError:
        if path.is_dir():
            return False
        raise
    system.chmod_folder(path, _FOLDER_MODE)
    system.sync_folder(path.parent)
    return True


def write_atomically(system: System, temporary: Path, path: Path, data: bytes) -> None:
    """Write a file under a temporary name of the same filesystem, make it durable, and move it into place."""
    descriptor = system.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _DOCUMENT_MODE)
    try:
        # Held so that a store opened meanwhile by another process does not take it for a leftover.
        system.lock(descriptor)
        system.chmod(descriptor, _DOCUMENT_MODE)
        write_all(system, descriptor, data, 0)
        system.sync(descriptor)
        make_folder(system, path.parent)
        system.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            system.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    system.sync_folder(path.parent)


def write_all(system: System, descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of data at offset, however many calls it takes."""
    view = memoryview(data).cast("B")
    while view:
        written = system.write(descriptor, view, offset)
        view = view[written:]
        offset += written
