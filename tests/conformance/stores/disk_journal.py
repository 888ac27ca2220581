"""A system that writes down what a store does, and what of it would be on the disk after a power loss.

The rules are those of POSIX, at their worst: the bytes, the size and the mode of a file are durable once it
was synced, a name once its folder was. What was not may be there all the same, each change for itself: a file
without its bytes, a name without its file, a rename done in one folder and not in the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hotstart_proxy.stores.system import System

__all__ = ["Disk", "Journal"]


@dataclass
class File:
    """A file as it is on the disk, with what has been done to it since it was synced."""

    data: bytearray = field(default_factory=bytearray)
    mode: int = 0o600
    pending: list[Callable[[File], None]] = field(default_factory=list)

    def settle(self, keep: Callable[[], bool]) -> None:
        """Let changes become durable, or be lost."""
        for change in self.pending:
            if keep():
                change(self)
        self.pending = []


@dataclass
class Folder:
    """A folder's names as they are on the disk, with the changes since it was synced."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[Callable[[dict[str, File | Folder]], None]] = field(default_factory=list)

    def settle(self, keep: Callable[[], bool]) -> None:
        """Let changes become durable, or be lost."""
        for change in self.pending:
            if keep():
                change(self.names)
        self.pending = []


def _without(name: str) -> Callable[[dict[str, File | Folder]], None]:
    def change(names: dict[str, File | Folder]) -> None:
        names.pop(name, None)

    return change


class Disk:
    """What is on the disk, and what is only in memory."""

    def __init__(self, root: Path) -> None:
        """Begin with a folder all of which is durable."""
        self._root = root
        self.folder = Folder()
        # What a running process sees.
        self.now: dict[Path, File | Folder] = {root: self.folder}
        for path in sorted(root.rglob("*")):
            item = Folder() if path.is_dir() else _read(path)
            self.now[path] = item
            self._parent(path).names[path.name] = item

    def _parent(self, path: Path) -> Folder:
        parent = self.now[path.parent]
        assert isinstance(parent, Folder)
        return parent

    def add(self, path: Path, item: File | Folder) -> None:
        """Give something a name."""
        self.now[path] = item
        self._parent(path).pending.append(lambda names: names.update({path.name: item}))

    def remove(self, path: Path) -> None:
        """Take a name away."""
        if self.now.pop(path, None) is not None:
            self._parent(path).pending.append(_without(path.name))

    def rename(self, source: Path, target: Path) -> None:
        """Move a name; within one folder that is one change, over two it is two."""
        item = self.now.pop(source)
        self.now[target] = item

        def change(names: dict[str, File | Folder]) -> None:
            names.pop(source.name, None)
            names[target.name] = item

        if source.parent == target.parent:
            self._parent(target).pending.append(change)
        else:
            self._parent(source).pending.append(_without(source.name))
            self._parent(target).pending.append(lambda names: names.update({target.name: item}))

    def sync(self, path: Path) -> None:
        """Make a file, or the names in a folder, durable."""
        item = self.now.get(path)
        if item is not None:
            item.settle(lambda: True)

    def lose_power(self, keep: Callable[[], bool]) -> None:
        """Decide on everything that is not durable, in the order in which it came."""
        for item in list(self.now.values()):
            item.settle(keep)

    def write_to(self, root: Path) -> None:
        """Make a folder as it is found after the power loss."""
        _write(self.folder, root)

    def picture(self) -> object:
        """Return what write_to would write, to compare."""
        return _picture(self.folder)


def _read(path: Path) -> File:
    return File(bytearray(path.read_bytes()), path.stat().st_mode & 0o777)


def _write(folder: Folder, path: Path) -> None:
    path.mkdir()
    for name, item in folder.names.items():
        if isinstance(item, Folder):
            _write(item, path / name)
        else:
            (path / name).write_bytes(item.data)
            (path / name).chmod(item.mode)


def _picture(folder: Folder) -> tuple[object, ...]:
    return tuple(
        (name, _picture(item) if isinstance(item, Folder) else (bytes(item.data), item.mode))
        for name, item in sorted(folder.names.items())
    )


def _resize(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))


class Journal(System):
    """Does what it is asked, and writes it down as functions that do it to a ``Disk``."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Callable[[Disk], None]]] = []

    def _note(self, name: str, change: Callable[[Disk], None]) -> None:
        self.entries.append((name, change))

    def _file(self, descriptor: int) -> Path:
        """Return where an open file lies now."""
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))

    def _change(self, name: str, descriptor: int, change: Callable[[File], None]) -> None:
        path = self._file(descriptor)

        def note(disk: Disk) -> None:
            item = disk.now.get(path)
            # What has no name any more is lost whatever is done to it.
            if isinstance(item, File):
                item.pending.append(change)

        self._note(name, note)

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        new = flags & os.O_CREAT and not path.exists()
        descriptor = super().open(path, flags, mode)
        if new:
            self._note("open", lambda disk: disk.add(path, File(mode=mode)))
        return descriptor

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self._note("make_folder", lambda disk: disk.add(path, Folder()))

    def chmod(self, descriptor: int, mode: int) -> None:
        super().chmod(descriptor, mode)
        self._change("chmod", descriptor, lambda file: setattr(file, "mode", mode))

    def reserve(self, descriptor: int, size: int) -> None:
        super().reserve(descriptor, size)
        self._change("reserve", descriptor, lambda file: _resize(file.data, size))

    def truncate(self, descriptor: int, size: int) -> None:
        super().truncate(descriptor, size)
        self._change("truncate", descriptor, lambda file: _resize(file.data, size))

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        count = super().write(descriptor, data, offset)
        written = bytes(data[:count])

        def change(file: File) -> None:
            if len(file.data) < offset + count:
                _resize(file.data, offset + count)
            file.data[offset : offset + count] = written

        self._change("write", descriptor, change)
        return count

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        path = self._file(descriptor)
        self._note("sync", lambda disk: disk.sync(path))

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._note("sync_folder", lambda disk: disk.sync(path))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._note("rename", lambda disk: disk.rename(source, target))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._note("unlink", lambda disk: disk.remove(path))
