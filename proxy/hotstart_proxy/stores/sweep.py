"""Opening a store: check that it is ours, clean up what a crash left, and learn what is there (blocking)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hotstart.wire.digests import is_content_id
from hotstart.wire.errors import FormatError

from .base import StoreError
from .fillmap import FillMap
from .folders import FORMAT_LINE, Folders, lock_file, make_folder, write_atomically

__all__ = ["Found", "scan_blobs", "sweep"]

_OURS = ("format", "blobs", "fills", "models", "lost+found")


@dataclass(frozen=True, slots=True)
class Found:
    """What a store holds: sizes in bytes by content id."""

    blobs: dict[str, int]
    partials: dict[str, int]


def sweep(folders: Folders, store: str) -> Found:
    """Create the store if there is none, clean it up, and list it: one scan, no file read but partials' maps.

    Raises:
        StoreError: the folder is something else, or of another layout.
        OSError: the system's.
    """
    make_folder(folders.root)
    _check_format(folders, store)
    for folder in (folders.blobs, folders.fills, folders.models):
        make_folder(folder)
    return Found(scan_blobs(folders), _scan_fills(folders))


def _check_format(folders: Folders, store: str) -> None:
    doing = f"opening the store in {folders.root}"
    try:
        found = folders.format.read_bytes()[:200].decode("utf-8", "replace")
    except FileNotFoundError:
        names = sorted(name for name in os.listdir(folders.root) if not _is_ours(name))
        if names:
            raise StoreError(
                store, doing, f"it holds other things ({', '.join(names[:3])}): name an empty folder"
            ) from None
        make_folder(folders.fills)
        write_atomically(folders.temporary(), folders.format, FORMAT_LINE.encode())
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


def scan_blobs(folders: Folders) -> dict[str, int]:
    """Return the size of every complete blob, by content id (blocking)."""
    blobs: dict[str, int] = {}
    with os.scandir(folders.blobs) as groups:
        for group in groups:
            if len(group.name) != 2 or not group.is_dir(follow_symlinks=False):
                continue
            with os.scandir(group.path) as entries:
                for entry in entries:
                    if is_content_id(entry.name) and entry.name.startswith(group.name):
                        blobs[entry.name] = entry.stat(follow_symlinks=False).st_size
    return blobs


def _scan_fills(folders: Folders) -> dict[str, int]:
    partials: dict[str, int] = {}
    names = set(os.listdir(folders.fills))
    for name in sorted(names):
        path = folders.fills / name
        content_id = path.stem
        orphan = path.suffix == ".map" and f"{content_id}.part" not in names
        if orphan or path.suffix == ".tmp":
            _remove_leftover(path)
        elif path.suffix == ".part":
            size = _partial_size(folders, content_id)
            if size is not None:
                partials[content_id] = size
            elif _remove_leftover(path):
                folders.map(content_id).unlink(missing_ok=True)
    return partials


def _partial_size(folders: Folders, content_id: str) -> int | None:
    """Return the size of a partial blob whose map is sound, else None."""
    try:
        known = FillMap.parse(folders.map(content_id).read_bytes())
        size = folders.part(content_id).stat().st_size
    except (FileNotFoundError, FormatError):
        return None
    return size if (known.id, known.size) == (content_id, size) and _any_done(known) else None


def _any_done(known: FillMap) -> bool:
    """Tell whether a map names at least one verified piece: else there is nothing to resume."""
    return any(value is not None for value in known.crc32)


def _remove_leftover(path: Path) -> bool:
    """Remove a file unless a living process holds its lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not lock_file(descriptor):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
