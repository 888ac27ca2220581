"""Byte planes: the content of frames in a ``.zsp`` twin (docs/format.md).

The bytes of a frame's elements are regrouped by significance, the lowest first, each plane whole: exponents,
which resemble each other, then lie together, and the noise of the mantissas lies apart. (Parquet calls this
BYTE_STREAM_SPLIT.) A frame's width, the bytes of one element, follows from the dtypes of the tensors in it.
Frame 0 begins with a magic, so that whoever takes planes for a zstd-framed file fails, and reads no wrong
weights.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from .dtypes import BITS
from .errors import FormatError
from .framing import cut_neighbours
from .ranges import ByteRange
from .safetensors import LENGTH_BYTES, MAX_HEADER_BYTES, Header, TensorInfo
from .seek_table import FrameEntry, SeekTable

__all__ = [
    "PLANES_MAGIC",
    "PREFIX_BYTES",
    "check_prefix",
    "dump_prefix",
    "frame_widths",
    "identity_table",
    "merge",
    "plan_planes",
    "split",
    "width_of",
]

PLANES_MAGIC = b"HSPLANE1"
_PREFIX = struct.Struct("<8sQI")
PREFIX_BYTES = _PREFIX.size
_WHAT = "byte planes"
_WIDTHS: Mapping[int, int] = MappingProxyType({16: 2, 32: 4, 64: 8})


def width_of(dtype: str) -> int:
    """Return how many bytes are regrouped together: 2, 4, 8, or 1 where elements have a byte or less.

    A complex number is two floats.
    """
    return 4 if dtype == "C64" else _WIDTHS.get(BITS[dtype], 1)


def split(content: bytes | bytearray | memoryview, width: int) -> bytes | bytearray | memoryview:
    """Regroup content by significance; with width 1 it is returned as it is.

    Args:
        content: a multiple of width bytes.
        width: 1, 2, 4 or 8.
    """
    if width == 1:
        return content
    source = bytes(content)
    count = len(source) // width
    planes = bytearray(len(source))
    for place in range(width):
        planes[place * count : (place + 1) * count] = source[place::width]
    return planes


def merge(planes: memoryview, width: int, destination: memoryview) -> None:
    """Undo ``split`` into destination, of the same size.

    The standard library's way; ``hotstart.frameworks.regrouping`` has faster ones. The GIL is held.
    """
    if width == 1:
        destination[:] = planes
        return
    count = len(planes) // width
    # A bytearray takes every n-th byte ten times faster than a memoryview does.
    merged = bytearray(len(planes))
    for place in range(width):
        merged[place::width] = planes[place * count : (place + 1) * count]
    destination[:] = merged


# Writing.


def plan_planes(header: Header, file_size: int) -> tuple[tuple[ByteRange, int], ...]:
    """Decide which bytes of the file each frame holds, and its width.

    As ``plan_frames`` does, but that no frame holds elements of two widths.

    Args:
        header: parsed from the file's start.
        file_size: bytes of the file.

    Raises:
        FormatError: the header describes a file of another size.
    """
    header.check_file_size(file_size)
    frames = [(ByteRange(0, header.data_start), 1)]
    filled = (info for info in header.tensors.values() if info.start < info.stop)
    for width, neighbours in groupby(filled, key=lambda info: width_of(info.dtype)):
        frames += [(frame, width) for frame in cut_neighbours(neighbours, header.data_start)]
    return tuple(frames)


def dump_prefix(header: bytes | bytearray | memoryview) -> bytes:
    """Return what stands before the Safetensors header (with the 8 bytes of its length) in frame 0."""
    return _PREFIX.pack(PLANES_MAGIC, len(header), zlib.crc32(header))


# Reading.


def check_prefix(content: memoryview) -> memoryview:
    """Check the content of frame 0 and return the Safetensors header in it, a view.

    Raises:
        FormatError: no planes, or a header of another length or other bytes than the prefix says.
    """
    if content[: len(PLANES_MAGIC)] != PLANES_MAGIC:
        raise FormatError(
            _WHAT,
            f"begin {bytes(content[: len(PLANES_MAGIC)])!r}: expected {PLANES_MAGIC!r}; is this a .zsp twin?",
        )
    if len(content) < PREFIX_BYTES:
        raise FormatError(_WHAT, f"{len(content)} bytes in frame 0: truncated")
    _, length, crc32 = _PREFIX.unpack_from(content)
    header = content[PREFIX_BYTES:]
    if length != len(header):
        raise FormatError(_WHAT, f"claim a header of {length} bytes: frame 0 holds {len(header)}")
    found = zlib.crc32(header)
    if found != crc32:
        raise FormatError(_WHAT, f"header has crc32 {found:08x}: expected {crc32:08x}")
    return header


def identity_table(table: SeekTable) -> SeekTable:
    """Return the seek table of a ``.zsp`` twin with contents in bytes of the file: frame 0 holds more.

    Raises:
        FormatError: frame 0 cannot hold a Safetensors header.
    """
    first, *others = table.entries
    header_bytes = len(first.content) - PREFIX_BYTES
    if not LENGTH_BYTES < header_bytes <= LENGTH_BYTES + MAX_HEADER_BYTES:
        raise FormatError(_WHAT, f"frame 0 of {len(first.content)} bytes cannot hold a Safetensors header")
    shifted = [
        FrameEntry(
            ByteRange(entry.content.start - PREFIX_BYTES, entry.content.stop - PREFIX_BYTES), entry.stored
        )
        for entry in others
    ]
    return SeekTable((FrameEntry(ByteRange(0, header_bytes), first.stored), *shifted))


def frame_widths(header: Header, table: SeekTable) -> tuple[int, ...]:
    """Return the width of each frame; that of frame 0 is 1.

    Args:
        header: of the file.
        table: in bytes of the file (see ``identity_table``).

    Raises:
        FormatError: the frames are not those of this file: a frame 0 that is not the header, a frame with
            elements of two widths or a part of one, or more or fewer bytes than the file has.
    """
    entries = table.entries
    if entries[0].content.stop != header.data_start or table.content_bytes != header.file_bytes:
        raise FormatError(
            _WHAT,
            f"a header of {entries[0].content.stop} in {table.content_bytes} bytes: "
            f"the Safetensors header says {header.data_start} in {header.file_bytes}",
        )
    filled = [info for info in header.tensors.values() if info.start < info.stop]
    widths = [1]
    first = 0
    for index, entry in enumerate(entries[1:], start=1):
        start, stop = entry.content.start - header.data_start, entry.content.stop - header.data_start
        after = first
        while filled[after].stop < stop:
            after += 1
        widths.append(_common_width(index, filled[first : after + 1], start, stop))
        first = after + 1 if filled[after].stop == stop else after
    return tuple(widths)


def _common_width(index: int, held: Sequence[TensorInfo], start: int, stop: int) -> int:
    """Return the width of a frame with the bytes from start to stop, which touch the tensors in held."""
    widths = {width_of(info.dtype) for info in held}
    if len(widths) > 1:
        found = " and ".join(str(width) for width in sorted(widths))
        raise FormatError(_WHAT, f"frame {index} holds elements of {found} bytes: expected one width")
    (width,) = widths
    # Tensors begin and end with an element, so only the ends of the frame can lie within one.
    if (start - held[0].start) % width or (stop - held[-1].start) % width:
        raise FormatError(_WHAT, f"frame {index} begins or ends within an element of {width} bytes")
    return width
