"""Byte-range locks of open file descriptions (OFD locks): how processes claim parts of a file.

They belong to the open file, not to the process: two opens of one file exclude each other also within one
process, closing another descriptor of the file loses nothing, and the kernel releases them with the last
descriptor, whatever way the process went. Where there are none (macOS, for development), everything is
granted, and whoever uses them must exclude others by a lock on the whole file (``SHARING`` is false).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

__all__ = ["SHARING", "claimed_elsewhere", "try_claim", "unclaim"]

SHARING = hasattr(fcntl, "F_OFD_SETLK")
# struct flock of 64-bit Linux: type, whence, start, length, pid (which must be 0), padding.
_FLOCK = struct.Struct("@hhqqi0q")


def try_claim(descriptor: int, start: int, stop: int) -> bool:
    """Claim the bytes from start to stop (exclusive) without waiting; False if another open file has any.

    Claiming again what this open file has already is granted.
    """
    if not SHARING:
        return True
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, start, stop))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def unclaim(descriptor: int, start: int, stop: int) -> None:
    """Give bytes back; no error if they were not claimed."""
    if SHARING:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, start, stop))


def claimed_elsewhere(descriptor: int, start: int, stop: int) -> list[range]:
    """Return the parts of a range that other open files have claimed, in no order; neighbours may be one."""
    if not SHARING:
        return []
    found: list[range] = []
    unknown = [range(start, stop)]
    while unknown:
        asked = unknown.pop()
        if not asked:
            continue
        # The kernel names one claim in the way, not the first: both sides of it are asked about again.
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, asked.start, asked.stop))
        kind, _, begin, length, _ = _FLOCK.unpack(answer)
        if kind == fcntl.F_UNLCK:
            continue
        claimed = range(max(begin, asked.start), min(begin + length, asked.stop) if length else asked.stop)
        found.append(claimed)
        unknown += [range(asked.start, claimed.start), range(claimed.stop, asked.stop)]
    return found


def _flock(kind: int, start: int, stop: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, stop - start, 0)
