"""The ``.part`` and the ``.map`` of a partial blob: how they come to be, are shared, and go (blocking).

Whoever fills holds a shared lock on the part; whoever would drop it needs the exclusive one, and so passes
over what is being filled. Names change only under the store's ``Exclusion``. A new map is empty until its
part has all its space, for which nobody else on the store waits: the claim of the map's first byte says that
somebody sees to it, or checks what an earlier fill left.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from hotstart.wire.errors import FormatError

from .claims import SHARING
from .fillmap import FillMap, new_map
from .folders import Folders, write_all
from .system import System

__all__ = [
    "OpenPart",
    "create_part",
    "drop_part",
    "erase",
    "is_named",
    "is_set_up",
    "open_part",
    "read_all",
    "set_up",
]

_PART_MODE = 0o644


@dataclass(frozen=True, slots=True)
class OpenPart:
    """A ``.part``, locked, and its ``.map``.

    Attributes:
        part: descriptor, whose lock says that somebody fills it.
        map: descriptor, whose claims say who sets it up, fetches which piece, and commits.
    """

    part: int
    map: int

    def close(self) -> None:
        """Close both files; lock and claims go with them."""
        os.close(self.part)
        os.close(self.map)

    @property
    def gone(self) -> bool:
        """Tell whether it has been committed or dropped since it was opened."""
        return os.fstat(self.map).st_nlink == 0


def open_part(system: System, folders: Folders, content_id: str) -> OpenPart | None:
    """Open a partial blob that is there; None if there is none. Under the exclusion.

    Raises:
        BlockingIOError: somebody fills it who does not share.
        OSError: the system's.
    """
    path = folders.part(content_id)
    try:
        try:
            part = system.open(path, os.O_RDWR)
        except PermissionError:
            # A commit got as far as the mode, and was killed.
            path.chmod(_PART_MODE)
            part = system.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    return _with_map(system, folders, content_id, part)


def create_part(system: System, folders: Folders, content_id: str, size: int) -> OpenPart:
    """Create a partial blob that counts with its size at once, and has no space yet. Under the exclusion.

    Raises:
        OSError: the system's; what was created is gone again.
    """
    path = folders.part(content_id)
    part = system.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _PART_MODE)
    try:
        opened = _with_map(system, folders, content_id, part)
    except BaseException:
        system.unlink(path)
        raise
    try:
        # One that a crash has left without its part says nothing.
        system.truncate(opened.map, 0)
        system.truncate(part, size)
    except BaseException:
        erase(system, folders, content_id, opened)
        opened.close()
        raise
    return opened


def _with_map(system: System, folders: Folders, content_id: str, part: int) -> OpenPart:
    try:
        _lock(system, part)
        return OpenPart(part, system.open(folders.map(content_id), os.O_RDWR | os.O_CREAT, _PART_MODE))
    except BaseException:
        os.close(part)
        raise


def _lock(system: System, part: int) -> None:
    if not system.lock(part, shared=SHARING):
        raise BlockingIOError(errno.EWOULDBLOCK, "it is locked")


def set_up(system: System, opened: OpenPart, content_id: str, size: int) -> FillMap:
    """Give a new part its space and its map, or check those that are there. With SETUP_BYTE claimed.

    Raises:
        FormatError: it is not what a fill of this blob has left.
        OSError: the system's.
    """
    data = read_all(opened.map)
    if not data:
        if size:
            system.reserve(opened.part, size)
        data = new_map(content_id, size)
        write_all(system, opened.map, data, 0)
    known = FillMap.parse(data)
    if (known.id, known.size, os.fstat(opened.part).st_size) != (content_id, size, size):
        raise FormatError("partial blob", "it is of another size, or another blob's")
    return known


def is_set_up(folders: Folders, content_id: str) -> bool:
    """Tell whether a partial blob's map is more than empty."""
    try:
        return folders.map(content_id).stat().st_size > 0
    except FileNotFoundError:
        return False


def drop_part(system: System, folders: Folders, content_id: str) -> bool:
    """Remove a partial blob, if nobody fills it. Under the exclusion."""
    path = folders.part(content_id)
    try:
        part = system.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if not system.lock(part):
            return False
        # The map first: a part without one is a leftover.
        system.unlink(folders.map(content_id))
        system.unlink(path)
        return True
    finally:
        os.close(part)


def erase(system: System, folders: Folders, content_id: str, opened: OpenPart) -> bool:
    """Remove a partial blob though others may fill it. Under the exclusion.

    Its map is emptied, which tells them.

    Returns:
        False where nothing was done, since it has been committed, or dropped already.
    """
    if not is_named(opened.part, folders.part(content_id)):
        return False
    system.truncate(opened.map, 0)
    system.unlink(folders.map(content_id))
    system.unlink(folders.part(content_id))
    return True


def is_named(descriptor: int, path: Path) -> bool:
    """Tell whether path names this open file."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def read_all(descriptor: int) -> bytes:
    """Read a small file from its beginning."""
    data = bytearray()
    while chunk := os.pread(descriptor, 1 << 20, len(data)):
        data += chunk
    return bytes(data)
