"""A storage initializer for KServe: ``python -m hotstart.kserve hotstart://org/bert@prod /mnt/models``.

KServe starts it before the model server, with pairs of a URI and the folder that is to hold what it names. A
folder gets one version whole or is left as it was: files are received beside it, checked, and moved in when
all are there. It may be killed at any point and started again: files that have arrived are not received
twice, and a move that was cut short is brought to its end first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.downloads import Download
from hotstart.errors import DownloadFailed, HotstartError, InvalidReference
from hotstart.model import open_model

__all__ = ["initialize", "main"]

_SCHEME = "hotstart://"
# No file of a version begins like this (reserved names).
_RECORD = ".hotstart-version.json"
_INCOMING = ".hotstart-incoming"
_LOCK = ".hotstart-lock"
_USAGE = "usage: python -m hotstart.kserve hotstart://ORG/MODEL[@VERSION] FOLDER [URI FOLDER ...]"


@dataclass(frozen=True, slots=True)
class _Record:
    """What a folder holds, as it is written into it.

    Attributes:
        reference: with the version: ``org/bert@7``.
        files: paths of the version, below the folder.
        replaces: paths of the version before it, while that is being replaced.
        whole: every file is in place; else they are being moved in.
    """

    reference: str
    files: tuple[str, ...]
    replaces: tuple[str, ...] = ()
    whole: bool = True


def initialize(uri: str, folder: str | os.PathLike[str]) -> str:
    """Bring a folder to hold the version that a URI names, and return that version's reference.

    Files in the folder that no earlier call put there are left alone, unless the version has files of their
    names.

    Raises:
        InvalidReference: uri is not ``hotstart://`` and a reference.
        DownloadFailed: the folder cannot be written.
        HotstartError: as ``hotstart.open`` and ``Model.download``.
    """
    if not uri.startswith(_SCHEME):
        raise InvalidReference(uri, f"it should begin {_SCHEME}, as in hotstart://org/bert@prod")
    root = Path(folder)
    with _failing(root), _locked(root):
        record = _read(root)
        if record is not None and not record.whole:
            record = _move_in(root, record)
        # Resolved once; all files are of this version, whatever the alias means by the end.
        model = open_model(uri.removeprefix(_SCHEME))
        if record is not None and record.reference == model.reference:
            shutil.rmtree(root / _INCOMING, ignore_errors=True)
            Download(model.opened, root).run()
            return model.reference
        incoming = root / _INCOMING
        download = Download(model.opened, incoming)
        paths = tuple(file.path for file in download.files)
        _keep_only(incoming, paths)
        download.run()
        _move_in(root, _begin(root, model.reference, paths, record))
    return model.reference


def _begin(root: Path, reference: str, paths: tuple[str, ...], before: _Record | None) -> _Record:
    """Note down what is about to be moved in: from here on, it will be."""
    record = _Record(reference, paths, () if before is None else before.files, whole=False)
    _write(root, record)
    return record


def _move_in(root: Path, record: _Record) -> _Record:
    """Replace what the folder holds by what has arrived, which may have been begun before."""
    for path in set(record.replaces) - set(record.files):
        _remove(root, path)
    for path in record.files:
        arrived, place = root / _INCOMING / path, root / path
        if arrived.exists():
            _make_room(root, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            arrived.replace(place)
    shutil.rmtree(root / _INCOMING, ignore_errors=True)
    done = _Record(record.reference, record.files)
    _write(root, done)
    return done


def _make_room(root: Path, path: str) -> None:
    """Remove a file where a folder has to be, and a folder where a file has to be."""
    place = root / path
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    for parent in place.relative_to(root).parents:
        if (root / parent).is_file():
            (root / parent).unlink()


def _remove(root: Path, path: str) -> None:
    """Remove a file, and the folders that it leaves empty."""
    place = root / path
    if place.is_dir() and not place.is_symlink():
        # Of the newer version, moved in before the move was cut short.
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        place.unlink()
    for parent in Path(path).parents[:-1]:
        with contextlib.suppress(OSError):
            (root / parent).rmdir()


def _keep_only(incoming: Path, paths: Sequence[str]) -> None:
    """Remove what an earlier, interrupted call received of another version."""
    wanted = set(paths)
    for place in sorted(incoming.rglob("*"), reverse=True):
        if place.is_dir() and not place.is_symlink():
            with contextlib.suppress(OSError):
                place.rmdir()
        elif place.relative_to(incoming).as_posix() not in wanted:
            place.unlink()


def _read(root: Path) -> _Record | None:
    """Return what the folder says that it holds; None if it says nothing that can be used."""
    try:
        fields = json.loads((root / _RECORD).read_bytes())
        return _Record(
            str(fields["reference"]),
            tuple(map(str, fields["files"])),
            tuple(map(str, fields["replaces"])),
            bool(fields["whole"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write(root: Path, record: _Record) -> None:
    fields = {
        "reference": record.reference,
        "files": record.files,
        "replaces": record.replaces,
        "whole": record.whole,
    }
    temporary = root / f"{_RECORD}.part"
    with temporary.open("w") as file:
        json.dump(fields, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(root / _RECORD)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Wait until nobody else fills the folder: pods may share a volume."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _failing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = root if error.filename is None else Path(os.fsdecode(error.filename))
        raise DownloadFailed(place, error.strerror or str(error)) from error


def main(arguments: Sequence[str]) -> int:
    """Do what KServe asks for, and return the exit status: 2 for arguments that make no sense."""
    pairs = list(zip(arguments[::2], arguments[1::2], strict=False))
    if not pairs or len(arguments) % 2:
        print(_USAGE, file=sys.stderr)  # noqa: T201
        return 2
    folders = [os.path.abspath(folder) for _, folder in pairs]
    if len(set(folders)) < len(folders):
        print("hotstart.kserve: two URIs have the same folder; give each its own", file=sys.stderr)  # noqa: T201
        return 2
    for uri, folder in pairs:
        try:
            reference = initialize(uri, folder)
        except HotstartError as error:
            print(f"hotstart.kserve: {error}", file=sys.stderr)  # noqa: T201
            return 1
        print(f"{reference} is in {folder}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
