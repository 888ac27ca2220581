"""The calls of the system by which a store's files change: every step that can fail, or be the last."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from . import claims

__all__ = ["System"]


class System:
    """The real one. A store is handed it, so that what a crash at any step leaves behind can be tried.

    Reading is not among it, nor closing: nothing is lost by where they stop. The clocks are.

    Raises:
        OSError: the system's, from every method.
    """

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Open a file, which may create it."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def make_folder(self, path: Path) -> None:
        """Make one folder."""
        path.mkdir()

    def chmod_folder(self, path: Path, mode: int) -> None:
        """Set a folder's mode, whatever the umask made of it."""
        path.chmod(mode)

    def chmod(self, descriptor: int, mode: int) -> None:
        """Set a file's mode."""
        os.fchmod(descriptor, mode)

    def reserve(self, descriptor: int, size: int) -> None:
        """Give a file its size, and the space for it."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            # macOS, for development: a full disk is met at a write instead.
            os.ftruncate(descriptor, size)

    def truncate(self, descriptor: int, size: int) -> None:
        """Give a file its size, and no space."""
        os.ftruncate(descriptor, size)

    def write(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Write at an offset; return how many bytes of data it took."""
        return os.pwrite(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        """Make a file's bytes and size durable."""
        os.fsync(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file, over another if there is one."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a name; no error if it is gone."""
        path.unlink(missing_ok=True)

    def touch(self, path: Path) -> None:
        """Date a file now."""
        os.utime(path)

    def wall_seconds(self) -> float:
        """Return the time since the epoch; the clock may be set at any moment."""
        return time.time()

    def steady_seconds(self) -> float:
        """Return the time since some moment, by a clock that is never set."""
        return time.monotonic()

    def lock(self, descriptor: int, *, shared: bool = False) -> bool:
        """Take a whole file's lock without waiting; False if another open file holds it.

        Where this open file had the other kind, it has none afterwards if it is refused.
        """
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def claim(self, descriptor: int, start: int, stop: int) -> bool:
        """Claim some bytes of a file without waiting; False if another open file has any of them."""
        return claims.try_claim(descriptor, start, stop)

    def unclaim(self, descriptor: int, start: int, stop: int) -> None:
        """Give them back."""
        claims.unclaim(descriptor, start, stop)
