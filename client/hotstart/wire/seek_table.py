"""The seek table at the end of a twin: which frame holds which bytes (zstd's seekable format, version 0.1.0).

A skippable frame: magic and size (8 bytes), an entry a frame (stored size, content size, and a checksum that
we do not write since every frame has its own), and 9 bytes of footer (count, descriptor, magic).
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import FormatError
from .frames import FRAME_BYTES, content_limit, stored_limit
from .ranges import ByteRange
from .safetensors import LENGTH_BYTES, MAX_HEADER_BYTES

__all__ = ["FOOTER_BYTES", "FrameEntry", "SeekTable", "table_length"]

FOOTER_BYTES = 9
_WHAT = "seek table"
_SKIPPABLE_MAGIC = 0x184D2A5E
_SEEKABLE_MAGIC = 0x8F92EAB1
_HEAD = struct.Struct("<II")
_ENTRY = struct.Struct("<II")
_ENTRY_WITH_CHECKSUM_BYTES = 12
_FOOTER = struct.Struct("<IBI")
_CHECKSUM_FLAG = 0x80
_RESERVED_BITS = 0x7C
# The seekable format's own limit.
_MAX_FRAMES = 0x8000000
# Frame 0 holds the Safetensors header, and for byte planes a few bytes of magic before it.
_MAX_FRAME_0_BYTES = LENGTH_BYTES + MAX_HEADER_BYTES + 1024


@dataclass(frozen=True, slots=True)
class FrameEntry:
    """One frame.

    Attributes:
        content: the bytes of the identity that it holds, never empty.
        stored: where the frame lies in the twin.
    """

    content: ByteRange
    stored: ByteRange


def table_length(footer: bytes | bytearray | memoryview) -> int:
    """Return the bytes of the whole skippable frame that ends with this footer.

    Args:
        footer: the last ``FOOTER_BYTES`` bytes of a twin.

    Raises:
        FormatError: not the footer of a seek table.
    """
    count, entry_bytes = _parse_footer(footer)
    return _HEAD.size + count * entry_bytes + FOOTER_BYTES


def _parse_footer(footer: bytes | bytearray | memoryview) -> tuple[int, int]:
    if len(footer) != FOOTER_BYTES:
        raise FormatError(_WHAT, f"footer of {len(footer)} bytes: expected {FOOTER_BYTES}")
    count, descriptor, magic = _FOOTER.unpack(footer)
    if magic != _SEEKABLE_MAGIC:
        raise FormatError(
            _WHAT, f"ends {magic:08x}: expected {_SEEKABLE_MAGIC:08x}; is this what hotstart pack wrote?"
        )
    if descriptor & _RESERVED_BITS:
        raise FormatError(_WHAT, f"descriptor {descriptor:02x}: reserved bits set")
    if not 1 <= count <= _MAX_FRAMES:
        raise FormatError(_WHAT, f"{count} frames: expected 1 to {_MAX_FRAMES}")
    return count, _ENTRY_WITH_CHECKSUM_BYTES if descriptor & _CHECKSUM_FLAG else _ENTRY.size


@dataclass(frozen=True, slots=True)
class SeekTable:
    """All frames of a twin, in order, without holes on either side.

    Attributes:
        entries: at least one; entry 0 is the frame of the header.
    """

    entries: tuple[FrameEntry, ...]

    @classmethod
    def of(cls, sizes: Iterable[tuple[int, int]]) -> SeekTable:
        """Make a table of consecutive frames.

        Args:
            sizes: bytes of content and bytes stored, of each frame.

        Raises:
            FormatError: no frames, or a size outside what format 1 allows (see ``parse``).
        """
        entries: list[FrameEntry] = []
        content_at = stored_at = 0
        for content_bytes, stored_bytes in sizes:
            _check_sizes(len(entries), content_bytes, stored_bytes)
            content = ByteRange(content_at, content_at + content_bytes)
            stored = ByteRange(stored_at, stored_at + stored_bytes)
            entries.append(FrameEntry(content, stored))
            content_at, stored_at = content.stop, stored.stop
        if not entries:
            raise FormatError(_WHAT, "no frames: expected at least that of the header")
        return cls(tuple(entries))

    @property
    def content_bytes(self) -> int:
        """Bytes of the identity."""
        return self.entries[-1].content.stop

    @property
    def stored_bytes(self) -> int:
        """Bytes of all frames, without the table that follows them."""
        return self.entries[-1].stored.stop

    def frames_for(self, wanted: ByteRange) -> tuple[FrameEntry, ...]:
        """Return the frames that hold bytes of wanted, in order; none for an empty range or past the end."""
        indices = self.indices_for(wanted)
        return self.entries[indices.start : indices.stop]

    def indices_for(self, wanted: ByteRange) -> range:
        """Return the places in ``entries`` of what ``frames_for`` returns."""
        if wanted.start == wanted.stop:
            return range(0)
        first = bisect_right(self.entries, wanted.start, key=lambda entry: entry.content.stop)
        after = bisect_left(self.entries, wanted.stop, key=lambda entry: entry.content.start)
        return range(first, after)

    def check_sizes(self, content_bytes: int, stored_bytes: int) -> None:
        """Compare the table with the sizes that are known from elsewhere.

        Args:
            content_bytes: of the identity.
            stored_bytes: of the twin without its table.

        Raises:
            FormatError: they differ.
        """
        if (self.content_bytes, self.stored_bytes) != (content_bytes, stored_bytes):
            raise FormatError(
                _WHAT,
                f"frames of {self.content_bytes} bytes in {self.stored_bytes}: "
                f"expected {content_bytes} in {stored_bytes}",
            )

    def dump(self) -> bytes:
        """Serialize as the skippable frame that ends a twin."""
        body = b"".join(_ENTRY.pack(len(entry.stored), len(entry.content)) for entry in self.entries)
        footer = _FOOTER.pack(len(self.entries), 0, _SEEKABLE_MAGIC)
        return _HEAD.pack(_SKIPPABLE_MAGIC, len(body) + FOOTER_BYTES) + body + footer

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> SeekTable:
        """Parse a whole skippable frame, with or without checksums in its entries (they are not used).

        Raises:
            FormatError: not a seek table, or one with a frame that format 1 does not allow: an empty one, one
                of more than 4 MiB of content (but frame 0), or stored in more bytes than zstd ever needs.
        """
        if len(data) < _HEAD.size + FOOTER_BYTES:
            raise FormatError(_WHAT, f"{len(data)} bytes: expected at least {_HEAD.size + FOOTER_BYTES}")
        magic, frame_bytes = _HEAD.unpack(data[: _HEAD.size])
        if magic != _SKIPPABLE_MAGIC:
            raise FormatError(_WHAT, f"begins {magic:08x}: expected {_SKIPPABLE_MAGIC:08x}")
        count, entry_bytes = _parse_footer(data[-FOOTER_BYTES:])
        expected = _HEAD.size + count * entry_bytes + FOOTER_BYTES
        if len(data) != expected or frame_bytes != expected - _HEAD.size:
            raise FormatError(
                _WHAT, f"{len(data)} bytes that claim {frame_bytes} for {count} frames: expected {expected}"
            )
        starts = range(_HEAD.size, len(data) - FOOTER_BYTES, entry_bytes)
        pairs = (_ENTRY.unpack_from(data, start) for start in starts)
        return cls.of((content_bytes, stored_bytes) for stored_bytes, content_bytes in pairs)


def _check_sizes(index: int, content_bytes: int, stored_bytes: int) -> None:
    most = FRAME_BYTES if index else _MAX_FRAME_0_BYTES
    if not 1 <= content_bytes <= most:
        raise FormatError(_WHAT, f"frame {index}: {content_bytes} bytes of content, expected 1 to {most}")
    # The second bound keeps a few hostile bytes from reserving megabytes.
    if not 1 <= stored_bytes <= stored_limit(content_bytes) or content_bytes > content_limit(stored_bytes):
        raise FormatError(
            _WHAT,
            f"frame {index}: {stored_bytes} bytes for {content_bytes} of content, which zstd never makes",
        )
