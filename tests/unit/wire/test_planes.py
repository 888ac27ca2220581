"""Byte planes: how a file is cut, regrouped and put together again, and what cannot be planes of a file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.wire.dtypes import BITS
from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FRAME_BYTES
from hotstart.wire.planes import (
    PREFIX_BYTES,
    check_prefix,
    dump_prefix,
    frame_widths,
    identity_table,
    merge,
    plan_planes,
    split,
    width_of,
)
from hotstart.wire.ranges import ByteRange
from hotstart.wire.safetensors import LENGTH_BYTES, Header, build_header, parse_header
from hotstart.wire.seek_table import FrameEntry, SeekTable

MIB = 1 << 20


def header_of(*tensors: tuple[str, int]) -> Header:
    """Return the header of a file with tensors of these dtypes and elements."""
    built = build_header((f"t{number}", dtype, (size,)) for number, (dtype, size) in enumerate(tensors))
    return parse_header(built[LENGTH_BYTES:], None)


def test_width_of_every_dtype() -> None:
    """Numbers of 2, 4 and 8 bytes are regrouped, complex ones as two floats, smaller ones not at all."""
    assert {dtype: width_of(dtype) for dtype in BITS} == {
        **dict.fromkeys(("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8"), 1),
        **dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
        **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
        **dict.fromkeys(("I32", "U32", "F32", "C64"), 4),
        **dict.fromkeys(("F64", "I64", "U64"), 8),
    }


@pytest.mark.parametrize(
    ("width", "planes"),
    [
        (1, bytes(range(16))),
        (2, bytes((0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15))),
        (4, bytes((0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15))),
        (8, bytes((0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15))),
    ],
)
def test_low_bytes_come_first(width: int, planes: bytes) -> None:
    """Plane i holds byte i of every element, each plane whole."""
    assert split(bytes(range(16)), width) == planes
    found = bytearray(16)
    merge(memoryview(planes), width, memoryview(found))
    assert found == bytes(range(16))


@given(elements=st.integers(1, 999), width=st.sampled_from([1, 2, 4, 8]), data=st.data())
def test_merge_undoes_split(elements: int, width: int, data: st.DataObject) -> None:
    """Whatever the bytes, they come back."""
    size = elements * width
    content = data.draw(st.binary(min_size=size, max_size=size))
    found = bytearray(size)
    merge(memoryview(split(memoryview(content), width)), width, memoryview(found))
    assert found == content


def plan(*tensors: tuple[str, int]) -> list[tuple[int, int, int]]:
    """Return the frames after the first: start and stop in the data section, and the width."""
    header = header_of(*tensors)
    (first, width), *frames = plan_planes(header, header.file_bytes)
    assert (first, width) == (ByteRange(0, header.data_start), 1)
    base = header.data_start
    return [(frame.start - base, frame.stop - base, width) for frame, width in frames]


@pytest.mark.parametrize(
    ("tensors", "frames"),
    [
        ([], []),
        ([("F32", 0), ("U8", 0)], []),
        # Neighbours of one width share a frame, whatever their dtypes; another width ends it.
        ([("F16", 5), ("BF16", 6), ("F32", 1)], [(0, 22, 2), (22, 26, 4)]),
        ([("C64", 1), ("F32", 1), ("U8", 3), ("F4", 2)], [(0, 12, 4), (12, 16, 1)]),
        # An empty tensor of another width ends nothing.
        ([("F16", 5), ("F64", 0), ("F16", 6)], [(0, 22, 2)]),
        # Tensors of an odd size shift those after them; their frames are still whole elements.
        ([("U8", 3), ("F64", 2), ("BOOL", 1)], [(0, 3, 1), (3, 19, 8), (19, 20, 1)]),
        # Large ones begin a frame and are cut at 4 MiB, which no element straddles.
        (
            [("I8", 1), ("F64", MIB * 3 // 4), ("F64", 1), ("F32", 1)],
            [(0, 1, 1), (1, 1 + 4 * MIB, 8), (1 + 4 * MIB, 9 + 6 * MIB, 8), (9 + 6 * MIB, 13 + 6 * MIB, 4)],
        ),
        (
            [("F32", 1), ("F32", 3 * MIB // 2)],
            [(0, 4, 4), (4, 4 + 4 * MIB, 4), (4 + 4 * MIB, 4 + 6 * MIB, 4)],
        ),
    ],
)
def test_plan(tensors: list[tuple[str, int]], frames: list[tuple[int, int, int]]) -> None:
    """The frames of a file are those that format 1 lays down: one width each, cut between elements."""
    assert plan(*tensors) == frames


DTYPES = st.sampled_from(["U8", "F16", "C64", "F32", "I64"])
TENSORS = st.lists(st.tuples(DTYPES, st.sampled_from([0, 1, 7, MIB - 1, MIB, 3 * MIB + 1])), max_size=12)


@given(tensors=TENSORS)
def test_readers_find_the_widths_of_the_plan(tensors: list[tuple[str, int]]) -> None:
    """The widths that a reader derives from header and seek table are those that were written."""
    header = header_of(*tensors)
    planned = plan_planes(header, header.file_bytes)
    assert [frame.start for frame, _ in planned[1:]] == [frame.stop for frame, _ in planned[:-1]]
    assert all(0 < len(frame) <= FRAME_BYTES for frame, _ in planned[1:])
    entries = tuple(FrameEntry(frame, ByteRange(0, 1)) for frame, _ in planned)
    assert frame_widths(header, SeekTable(entries)) == tuple(width for _, width in planned)


def test_plan_of_another_file() -> None:
    """A header that describes a file of another size is refused."""
    header = header_of(("F32", 10))
    with pytest.raises(FormatError, match="but its header describes"):
        plan_planes(header, header.file_bytes + 1)


SAFETENSORS_HEADER = build_header([("t", "BF16", (4,))])
PREFIX = dump_prefix(SAFETENSORS_HEADER)


def test_prefix_bytes() -> None:
    """Frame 0 begins with the magic, the header's length in 8 bytes and its crc32 in 4, little-endian."""
    length, crc32 = len(SAFETENSORS_HEADER), zlib.crc32(SAFETENSORS_HEADER)
    assert b"HSPLANE1" + length.to_bytes(8, "little") + crc32.to_bytes(4, "little") == PREFIX
    assert len(PREFIX) == PREFIX_BYTES == 20
    assert check_prefix(memoryview(PREFIX + SAFETENSORS_HEADER)) == SAFETENSORS_HEADER


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begin b'': expected b'HSPLANE1'"),
        (SAFETENSORS_HEADER, "is this a .zsp twin?"),
        (b"HSPLANE2" + PREFIX[8:] + SAFETENSORS_HEADER, "begin b'HSPLANE2'"),
        (b"HSPLANE1", "8 bytes in frame 0: truncated"),
        (PREFIX[:-1], "19 bytes in frame 0: truncated"),
        (PREFIX + SAFETENSORS_HEADER[:-1], f"claim a header of {len(SAFETENSORS_HEADER)} bytes"),
        (PREFIX + SAFETENSORS_HEADER + b" ", f"frame 0 holds {len(SAFETENSORS_HEADER) + 1}"),
        (struct.pack("<8sQI", b"HSPLANE1", 2**64 - 1, 0) + SAFETENSORS_HEADER, f"of {2**64 - 1} bytes"),
        (PREFIX[:16] + b"\0\0\0\0" + SAFETENSORS_HEADER, "expected 00000000"),
        (PREFIX + SAFETENSORS_HEADER[:-1] + b"\t", "header has crc32"),
    ],
)
def test_hostile_prefixes(content: bytes, reason: str) -> None:
    """What is no planes, or whose header is another than it says, is the one error."""
    with pytest.raises(FormatError) as caught:
        check_prefix(memoryview(content))
    assert caught.value.what == "byte planes"
    assert reason in caught.value.reason


def table_of(*contents: int) -> SeekTable:
    """Return a table of frames with so many bytes of content, as a twin has it."""
    return SeekTable.of((size, size + 20) for size in contents)


def test_identity_table() -> None:
    """Contents are counted without the prefix; where frames are stored stays."""
    table = table_of(120, 40, 8)
    shifted = identity_table(table)
    assert [(entry.content.start, entry.content.stop) for entry in shifted.entries] == [
        (0, 100),
        (100, 140),
        (140, 148),
    ]
    assert [entry.stored for entry in shifted.entries] == [entry.stored for entry in table.entries]


@pytest.mark.parametrize("size", [1, 20, 28])
def test_frame_0_that_holds_no_header(size: int) -> None:
    """A frame 0 in which no Safetensors header has room is refused before anything is fetched."""
    with pytest.raises(FormatError, match="cannot hold a Safetensors header"):
        identity_table(table_of(size, 8))


def entries_of(header: Header, *sizes: int) -> SeekTable:
    return identity_table(table_of(PREFIX_BYTES + header.data_start, *sizes))


@pytest.mark.parametrize(
    ("tensors", "sizes", "reason"),
    [
        ([("F16", 4)], [3, 5], "frame 1 begins or ends within an element of 2 bytes"),
        ([("F16", 4)], [4, 3, 1], "frame 2 begins or ends within an element of 2 bytes"),
        ([("U8", 1), ("F32", 4)], [1, 7, 9], "frame 2 begins or ends within an element of 4 bytes"),
        ([("F16", 4), ("F32", 1)], [12], "frame 1 holds elements of 2 and 4 bytes"),
        ([("F16", 4), ("F32", 1)], [10, 2], "frame 1 holds elements of 2 and 4 bytes"),
        ([("F64", 1), ("I8", 3), ("F64", 1)], [8, 11], "frame 2 holds elements of 1 and 8 bytes"),
        ([("F16", 4)], [8, 8], "the Safetensors header says"),
        ([("F16", 4)], [6], "the Safetensors header says"),
        ([], [2], "the Safetensors header says"),
    ],
)
def test_frames_of_another_file(tensors: list[tuple[str, int]], sizes: Sequence[int], reason: str) -> None:
    """Frames that are not those of planes of the file are refused, before one of them is regrouped."""
    header = header_of(*tensors)
    with pytest.raises(FormatError) as caught:
        frame_widths(header, entries_of(header, *sizes))
    assert caught.value.what == "byte planes"
    assert reason in caught.value.reason


def test_frame_0_of_another_length() -> None:
    """A frame 0 that is not exactly the header is refused, though the sums agree."""
    header = header_of(("F16", 4))
    table = identity_table(table_of(PREFIX_BYTES + header.data_start - 2, 8 + 2))
    with pytest.raises(FormatError, match="the Safetensors header says"):
        frame_widths(header, table)
