"""The ``.map`` beside a ``.part``, disk layout 1: which pieces of a partial blob are verified.

========  =====  =====================================================
offset    bytes  what
========  =====  =====================================================
0         8      ``HSFILL1`` and a zero byte
8         8      size of the blob, u64 little-endian
16        32     content id
48        4      crc32 of the 48 bytes before
52        8 n    per piece: u32 1 if it is verified, else 0; u32 crc32
========  =====  =====================================================

An entry is written after its piece. After a crash an entry may be there without its piece, so a fill that is
taken up trusts none: it reads every piece again before use, and compares.

Processes that fill together claim bytes of the map from each other (``claims``): an entry while its piece is
fetched, byte 0 while the part is set up, byte 1 for the commit. A map that is emptied says that the fill has
been discarded.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from hotstart.wire.errors import FormatError
from hotstart.wire.pieces import piece_count

__all__ = [
    "COMMIT_BYTE",
    "ENTRY_BYTES",
    "SETUP_BYTE",
    "FillMap",
    "entries",
    "entry_at",
    "entry_bytes",
    "new_map",
]

_HEAD = struct.Struct("<8sQ32s")
_CHECK = struct.Struct("<I")
_ENTRY = struct.Struct("<II")
_MAGIC = b"HSFILL1\0"
SETUP_BYTE = 0
COMMIT_BYTE = 1
ENTRY_BYTES = _ENTRY.size
_WHAT = "fill map"


@dataclass(frozen=True, slots=True)
class FillMap:
    """A parsed map.

    Attributes:
        id: content id.
        size: bytes of the whole blob.
        crc32: per piece the value it was verified with, or None.
    """

    id: str
    size: int
    crc32: tuple[int | None, ...]

    @classmethod
    def parse(cls, data: bytes) -> FillMap:
        """Parse a whole map.

        Raises:
            FormatError: it is damaged, cut short or of another format.
        """
        start = _HEAD.size + _CHECK.size
        if len(data) < start:
            raise FormatError(_WHAT, f"{len(data)} bytes: expected at least {start}")
        magic, size, content_id = _HEAD.unpack_from(data)
        if magic != _MAGIC or _CHECK.unpack_from(data, _HEAD.size)[0] != zlib.crc32(data[: _HEAD.size]):
            raise FormatError(_WHAT, "its head is damaged or of another format")
        if len(data) != start + _ENTRY.size * piece_count(size):
            raise FormatError(_WHAT, f"{len(data)} bytes do not fit {piece_count(size)} pieces")
        for piece, (flag, _) in enumerate(_ENTRY.iter_unpack(data[start:])):
            if flag > 1:
                raise FormatError(_WHAT, f"piece {piece} has the flag {flag}: expected 0 or 1")
        return cls(content_id.hex(), size, tuple(entries(data[start:])))


def new_map(content_id: str, size: int) -> bytes:
    """Return the map of a fill that has nothing yet."""
    head = _HEAD.pack(_MAGIC, size, bytes.fromhex(content_id))
    return head + _CHECK.pack(zlib.crc32(head)) + bytes(_ENTRY.size * piece_count(size))


def entries(data: bytes) -> list[int | None]:
    """Return per piece the crc32 it was verified with, or None, of some entries, the whole ones."""
    whole = data[: len(data) // ENTRY_BYTES * ENTRY_BYTES]
    return [value if flag == 1 else None for flag, value in _ENTRY.iter_unpack(whole)]


def entry_at(piece: int) -> int:
    """Return the offset of a piece's entry."""
    return _HEAD.size + _CHECK.size + _ENTRY.size * piece


def entry_bytes(crc32: int | None) -> bytes:
    """Return the entry of a verified piece, or (None) of one that is missing."""
    return _ENTRY.pack(0, 0) if crc32 is None else _ENTRY.pack(1, crc32)
