"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hotstart.termination import ending_on_sigterm

from .errors import CannotWrite

__all__ = ["new_folder"]


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside path, which takes its place when the block ends without an error.

    After an error, Ctrl-C or SIGTERM nothing is left; after SIGKILL or a crash a hidden folder
    ``.hotstart-….part`` beside path. For the main thread, which signals go to.

    Args:
        path: must not be there, or be an empty folder.

    Raises:
        CannotWrite: it is there, or what the block raised as an OSError.
    """
    path = Path(os.path.abspath(path))
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise CannotWrite(str(path), "it is there already: name a folder that is new or empty")
    part = path.with_name(f".hotstart-{secrets.token_hex(8)}.part")
    with ending_on_sigterm():
        try:
            part.mkdir(parents=True)
            yield part
            _sync(part)
            # Onto an empty folder this works as well, and onto one that has been filled meanwhile it fails.
            part.rename(path)
            _sync(path.parent)
        except OSError as error:
            raise CannotWrite(str(path), error.strerror or str(error)) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
