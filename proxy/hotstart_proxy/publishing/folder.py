"""The folder to publish: which of its files make the version, and what is wrong with it.

Rules: every regular file is published, subfolders kept. Folders whose names begin with a dot (``.git``,
``.cache``) are tools' own and are left out, as are ``.DS_Store`` and what is neither file nor folder, and the
caller says so. Links to files are
followed wherever they lead, since a snapshot in the Hugging Face cache is a folder of links to its blobs.
Links to folders are refused: following them may go round in circles or take in a whole disk, and leaving them
out in silence would publish half a model.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hotstart.wire.errors import InvalidReference
from hotstart.wire.manifest import TWIN_SUFFIXES
from hotstart.wire.references import RESERVED_PREFIX, check_file

from .errors import FileChanged, FolderRefused

__all__ = ["Folder", "LeftOut", "Signature", "SourceFile", "scan_folder"]

SAFETENSORS_SUFFIX = ".safetensors"
# A file manager writes it into every folder that it shows.
_LITTER = (".DS_Store",)


@dataclass(frozen=True, slots=True)
class Signature:
    """What changes when a file is written to or replaced."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Signature:
        """Return the signature of a file of this status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to publish.

    Attributes:
        path: in the version, checked by ``check_file``.
        location: where it lies.
        signature: when the folder was read.
    """

    path: str
    location: Path
    signature: Signature

    @property
    def size(self) -> int:
        """Bytes, when the folder was read."""
        return self.signature.size

    @property
    def is_safetensors(self) -> bool:
        """Whether its name says that it is Safetensors."""
        return self.path.endswith(SAFETENSORS_SUFFIX)

    def check_unchanged(self, descriptor: int | None = None) -> None:
        """Compare the file with its signature.

        Args:
            descriptor: of the open file; None looks at the path.

        Raises:
            FileChanged: it was written to, replaced or removed since.
        """
        try:
            status = self.location.stat() if descriptor is None else os.fstat(descriptor)
        except FileNotFoundError as error:
            raise FileChanged(self.path) from error
        if Signature.of(status) != self.signature:
            raise FileChanged(self.path)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something in the folder that is not published: its path there (a folder's ends with /) and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds: files and what was left out, both by rising path."""

    root: Path
    files: tuple[SourceFile, ...]
    left_out: tuple[LeftOut, ...]


def scan_folder(root: Path) -> Folder:
    """Read the folder's names and sizes; no file is opened.

    Raises:
        FolderRefused: with all problems: it is no folder or holds no file, a name that cannot be published
            (``.hotstart`` among them), a twin, a broken link, a link to a folder, something unreadable.
    """
    if not root.is_dir():
        found = "it is not there" if not root.exists() else "it is a file: give the folder that holds it"
        raise FolderRefused(str(root), [found])
    files: list[SourceFile] = []
    left_out: list[LeftOut] = []
    problems: list[str] = []
    for item in _walk(root):
        match item:
            case SourceFile():
                files.append(item)
            case LeftOut():
                left_out.append(item)
            case str():
                problems.append(item)
    problems += _twins_among(files)
    if not files and not problems:
        problems.append("it holds no files" + (" of a model" if left_out else ""))
    if problems:
        raise FolderRefused(str(root), sorted(problems))
    return Folder(
        root,
        tuple(sorted(files, key=lambda file: file.path)),
        tuple(sorted(left_out, key=lambda item: item.path)),
    )


def _walk(root: Path) -> Iterator[SourceFile | LeftOut | str]:
    """Yield files, what is left out, and problems, in any order."""
    folders = [("", root)]
    while folders:
        prefix, folder = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            yield f"{prefix or folder}: {error.strerror}"
            continue
        for entry in entries:
            path = prefix + entry.name
            if entry.name.startswith(RESERVED_PREFIX):
                yield (
                    f"{path} is there: names that begin {RESERVED_PREFIX} are the origin's own (is this a "
                    "copy of an origin? publish the files alone)"
                )
            elif entry.name.startswith(".") and entry.is_dir():
                yield LeftOut(f"{path}/", "hidden")
            elif entry.name in _LITTER:
                yield LeftOut(path, "no part of a model")
            elif entry.is_dir(follow_symlinks=False):
                folders.append((f"{path}/", Path(entry.path)))
            else:
                yield _classify(path, entry)


def _classify(path: str, entry: os.DirEntry[str]) -> SourceFile | LeftOut | str:
    try:
        # Not entry.stat(): its inode is missing on some systems.
        status = os.stat(entry.path)
    except OSError as error:
        return f"{path} is a broken link" if entry.is_symlink() else f"{path}: {error.strerror}"
    if stat.S_ISDIR(status.st_mode):
        return f"{path} is a link to a folder, which is not followed: put the folder itself there"
    if not stat.S_ISREG(status.st_mode):
        return LeftOut(path, "neither file nor folder")
    try:
        check_file(path)
    except InvalidReference as error:
        return f"{error}: rename it"
    if not path.isprintable():
        # Whether it is in normal form, which readers ask, depends on what the characters are.
        return f"{path!a} has characters that this Python's Unicode does not know: rename it"
    return SourceFile(path, Path(entry.path), Signature.of(status))


def _twins_among(files: list[SourceFile]) -> Iterator[str]:
    paths = {file.path for file in files}
    for path in paths:
        for suffix in TWIN_SUFFIXES:
            plain = path.removesuffix(suffix)
            if plain != path and (plain in paths or plain.endswith(SAFETENSORS_SUFFIX)):
                yield f"{path} is a twin: twins are made while publishing, so publish {plain} alone"
