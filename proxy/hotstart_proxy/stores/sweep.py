"""Opening a store: check that it is ours, and clean up what a crash left (blocking)."""

from __future__ import annotations

import os
from pathlib import Path

from hotstart.wire.errors import FormatError

from .base import StoreError
from .fillmap import FillMap
from .folders import FORMAT_LINE, Folders, make_folder, write_atomically
from .parts import drop_part
from .system import System

__all__ = ["prepare", "sweep"]

_OURS = ("format", "blobs", "fills", "models", "quarantine", "lost+found")


def prepare(system: System, folders: Folders, store: str) -> None:
    """Create the store if there is none, else check that it is one of this layout.

    Raises:
        StoreError: the folder is something else, or of another layout.
        OSError: the system's.
    """
    make_folder(system, folders.root)
    _check_format(system, folders, store)
    for folder in (folders.blobs, folders.fills, folders.models, folders.quarantine):
        make_folder(system, folder)


def _check_format(system: System, folders: Folders, store: str) -> None:
    doing = f"opening the store in {folders.root}"
    try:
        found = folders.format.read_bytes()[:200].decode("utf-8", "replace")
    except FileNotFoundError:
        names = sorted(name for name in os.listdir(folders.root) if not _is_ours(name))
        if names:
            raise StoreError(
                store, doing, f"it holds other things ({', '.join(names[:3])}): name an empty folder"
            ) from None
        make_folder(system, folders.fills)
        write_atomically(system, folders.temporary(), folders.format, FORMAT_LINE.encode())
        return
    if found != FORMAT_LINE:
        raise StoreError(
            store,
            doing,
            f"its format is {found.strip()!r}, this hotstart knows {FORMAT_LINE.strip()!r}: "
            "use the hotstart that wrote it, or name another folder",
        )


def _is_ours(name: str) -> bool:
    # Admin sockets may have been bound before the store was opened.
    return name in _OURS or name.endswith(".sock")


def sweep(system: System, folders: Folders) -> list[str]:
    """Remove from ``fills`` what no living process works at and no fill can take up. Under the exclusion.

    Returns:
        What was removed and why, in words.
    """
    dropped: list[str] = []
    names = set(os.listdir(folders.fills))
    for name in sorted(names):
        path = folders.fills / name
        content_id = path.stem
        if path.suffix == ".map" and f"{content_id}.part" not in names:
            system.unlink(path)
            dropped.append(f"fills/{name}: the part that it belongs to is gone")
        elif path.suffix == ".tmp" and _remove_unlocked(system, path):
            dropped.append(f"fills/{name}: a document that was never moved to its place")
        elif path.suffix == ".part":
            reason = _useless(folders, content_id)
            if reason is not None and _drop(system, folders, content_id):
                dropped.append(f"fills/{name}: {reason}")
    return dropped


def _useless(folders: Folders, content_id: str) -> str | None:
    """Say why a partial blob cannot be taken up; None if it can."""
    try:
        size = folders.part(content_id).stat().st_size
        known = FillMap.parse(folders.map(content_id).read_bytes())
    except FileNotFoundError:
        return "no map says what is in it"
    except FormatError as error:
        return f"its map is of no use: {error}"
    if (known.id, known.size) != (content_id, size):
        return f"{size} bytes, but its map is of {known.size}"
    if _is_blob(folders, content_id):
        return "its commit was cut short after the blob was in place"
    if not any(value is not None for value in known.crc32):
        return "no piece of it is verified"
    return None


def _is_blob(folders: Folders, content_id: str) -> bool:
    try:
        return os.path.samefile(folders.part(content_id), folders.blob(content_id))
    except FileNotFoundError:
        return False


def _drop(system: System, folders: Folders, content_id: str) -> bool:
    if _is_blob(folders, content_id):
        # Whoever maps the blob has it locked; but this is one name too many, and nobody's fill.
        system.unlink(folders.map(content_id))
        system.unlink(folders.part(content_id))
        return True
    return drop_part(system, folders, content_id)


def _remove_unlocked(system: System, path: Path) -> bool:
    """Remove a file unless a living process holds its lock."""
    try:
        descriptor = system.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if not system.lock(descriptor):
            return False
        system.unlink(path)
        return True
    finally:
        os.close(descriptor)
