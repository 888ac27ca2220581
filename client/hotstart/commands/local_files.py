"""Local files that commands read, and new ones that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hotstart.termination import ending_on_sigterm
from hotstart.wire.errors import FormatError, HotstartError

__all__ = ["FileFailure", "NewFile", "naming", "new_file", "open_file", "read_exactly"]


class FileFailure(HotstartError):
    """A local file cannot be read or written.

    Attributes:
        path: of the file.
        doing: what was attempted.
        reason: what happened, and what to do.
    """

    def __init__(self, path: Path, doing: str, reason: str) -> None:
        self.path = path
        self.doing = doing
        self.reason = reason
        super().__init__(f"cannot {doing} {path}: {reason}")


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Say in every ``FormatError`` of the block where the bytes come from."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{error.what} of {place}", error.reason) from error


@contextmanager
def open_file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file for reading, unbuffered; yields it and its size in bytes.

    Raises:
        FileFailure: it is not there, cannot be read, or is no regular file.
    """
    try:
        # Checked before it is opened: opening a named pipe would wait for a writer.
        if path.exists() and not path.is_file():
            raise FileFailure(path, "read", "it is not a regular file")
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise FileFailure(path, "read", error.strerror or str(error)) from error
    with file:
        yield file, os.fstat(file.fileno()).st_size


def read_exactly(file: BinaryIO, buffer: memoryview, path: Path) -> None:
    """Fill buffer from file.

    Raises:
        FileFailure: the file ended before, or broke.
    """
    filled = 0
    while filled < len(buffer):
        try:
            count = file.readinto(buffer[filled:])  # type: ignore[attr-defined]
        except OSError as error:
            raise FileFailure(path, "read", error.strerror or str(error)) from error
        if not count:
            raise FileFailure(path, "read", "it ended early; was it changed meanwhile?")
        filled += count


@dataclass(slots=True)
class NewFile:
    """A file that is being written.

    Attributes:
        file: to write to.
        keep: whether it is to appear when the block ends.
    """

    file: BinaryIO
    keep: bool = True


@contextmanager
def new_file(path: Path, *, source: Path, force: bool) -> Iterator[NewFile]:
    """Write a file under another name beside it; it takes its place when the block ends without an error.

    After an error, Ctrl-C or SIGTERM, and if it is not to be kept, nothing is left. Whoever else creates the
    file meanwhile wins, unless force. For the main thread, which signals go to.

    Args:
        path: the file to be.
        source: what it is made from; never replaced.
        force: replace a file that is there.

    Raises:
        FileFailure: it is there already (without force), or cannot be written.
    """
    if not force and os.path.lexists(path):
        raise _exists(path)
    if path.exists() and path.samefile(source):
        raise FileFailure(path, "write", "it is the file that is read; name another with -o")
    part = path.with_name(f".hotstart-{secrets.token_hex(8)}.part")
    with ending_on_sigterm():
        try:
            with part.open("xb") as file:
                new = NewFile(file)
                yield new
                file.flush()
                os.fsync(file.fileno())
            if new.keep:
                _move(part, path, force=force)
        except OSError as error:
            raise FileFailure(path, "write", error.strerror or str(error)) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()


def _move(part: Path, path: Path, *, force: bool) -> None:
    if force:
        part.replace(path)
        return
    try:
        # Unlike a rename, a link never replaces what is there.
        os.link(part, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        # A filesystem without hard links.
        if os.path.lexists(path):
            raise _exists(path) from None
        part.rename(path)


def _exists(path: Path) -> FileFailure:
    return FileFailure(path, "write", "it is there already; --force replaces it")
