"""What lies in a store's folders, read again where it has changed (blocking)."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hotstart.wire.digests import is_content_id

from .folders import Folders
from .system import System

__all__ = ["Changes", "Marks", "look"]

# A folder may change again without its time stamp showing it: kernels date in steps of some milliseconds,
# some filesystems in whole seconds. So one that changed a moment ago is read again the next time.
_GRANULARITY_NS = 2_000_000_000
Marks = Mapping[str, int]
"""Per folder, relative to the store's: when it was last changed, as it was last read."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What was read: sizes in bytes by content id, of the folders that have changed, whole.

    Attributes:
        blobs: by the first two digits of the content ids; empty for a folder that is gone.
        partials: None where nothing has changed.
        quarantined: likewise.
        marks: what to look with the next time, once this has been taken in.
    """

    blobs: dict[str, dict[str, int]] = field(default_factory=dict)
    partials: dict[str, int] | None = None
    quarantined: dict[str, int] | None = None
    marks: dict[str, int] = field(default_factory=dict)


def look(system: System, folders: Folders, marks: Marks) -> Changes:
    """Read the folders that have changed since marks were made: a stat for each, and no file is opened.

    Raises:
        OSError
    """
    blobs: dict[str, dict[str, int]] = {}
    seen: dict[str, int] = {}
    settled = int(system.wall_seconds() * 1e9) - _GRANULARITY_NS
    with os.scandir(folders.blobs) as entries:
        groups = {entry.name for entry in entries if _is_group(entry)}
    for group in sorted(groups):
        listed = _list(folders.blobs / group, group, marks.get(group), seen, settled)
        if listed is not None:
            blobs[group] = {name: size for name, size in listed.items() if name.startswith(group)}
    blobs |= {name: {} for name in marks if len(name) == 2 and name not in groups}
    parts = _list(folders.fills, "fills", marks.get("fills"), seen, settled, ".part")
    aside = _list(folders.quarantine, "quarantine", marks.get("quarantine"), seen, settled)
    return Changes(blobs, parts, aside, seen)


def _is_group(entry: os.DirEntry[str]) -> bool:
    return len(entry.name) == 2 and entry.is_dir(follow_symlinks=False)


def _list(
    folder: Path, name: str, mark: int | None, seen: dict[str, int], settled: int, suffix: str = ""
) -> dict[str, int] | None:
    """Return the sizes of what a folder holds; None if it is as it was.

    Its mark is added to seen, one that nothing equals if it changed after the moment settled.
    """
    try:
        changed = folder.stat().st_mtime_ns
        if changed == mark:
            seen[name] = changed
            return None
        found = _sizes(folder, suffix)
    except FileNotFoundError:
        return {}
    # Also where it is dated in the future: then a clock was set, and will come by here again.
    seen[name] = changed if changed < settled else -1
    return found


def _sizes(folder: Path, suffix: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            content_id = entry.name.removesuffix(suffix)
            if not (entry.name.endswith(suffix) and is_content_id(content_id)):
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                # Removed by hand; whatever belongs to the store changes names in turns.
                continue
            if stat.S_ISREG(found.st_mode):
                sizes[content_id] = found.st_size
    return sizes
