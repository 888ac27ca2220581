"""The seek table: its bytes, and finding frames by range."""

from __future__ import annotations

import struct

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.frames import FRAME_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart.wire.seek_table import FOOTER_BYTES, FrameEntry, SeekTable, table_length

TABLE = SeekTable.of([(100, 60), (FRAME_BYTES, 4_000_000), (5, 14)])


def test_bytes_spelled_out() -> None:
    """The table's bytes are those of zstd's seekable format, and never change."""
    assert SeekTable.of([(100, 60), (5, 14)]).dump() == bytes.fromhex(
        "5e2a4d18 19000000"  # skippable frame of 25 bytes
        "3c000000 64000000"  # 60 bytes for 100
        "0e000000 05000000"
        "02000000 00 b1ea928f"  # 2 frames, no checksums, magic
    )


def test_round_trip() -> None:
    """What is written is read back the same, and its footer tells its length."""
    data = TABLE.dump()
    assert SeekTable.parse(data) == TABLE
    assert SeekTable.parse(memoryview(bytearray(data))) == TABLE
    assert table_length(data[-FOOTER_BYTES:]) == len(data)


def test_checksums_in_entries_are_passed_over() -> None:
    """A table of another writer, with a checksum in each entry, is read too."""
    entries = b"".join(struct.pack("<III", 60, 100, 0xDEADBEEF) for _ in range(2))
    body = entries + struct.pack("<IBI", 2, 0x80, 0x8F92EAB1)
    data = struct.pack("<II", 0x184D2A5E, len(body)) + body
    assert SeekTable.parse(data) == SeekTable.of([(100, 60)] * 2)
    assert table_length(data[-FOOTER_BYTES:]) == len(data)


def test_entries_follow_each_other() -> None:
    """Frames lie one after the other, in the identity and in the twin."""
    assert TABLE.entries[1] == FrameEntry(ByteRange(100, 100 + FRAME_BYTES), ByteRange(60, 4_000_060))
    assert TABLE.content_bytes == 105 + FRAME_BYTES
    assert TABLE.stored_bytes == 4_000_074


@pytest.mark.parametrize(
    ("start", "stop", "indices"),
    [
        (0, 0, []),
        (50, 50, []),
        (0, 1, [0]),
        (99, 100, [0]),
        (100, 101, [1]),
        (99, 101, [0, 1]),
        (0, 105 + FRAME_BYTES, [0, 1, 2]),
        (100 + FRAME_BYTES, 10**12, [2]),
        (105 + FRAME_BYTES, 10**12, []),
    ],
)
def test_frames_for_a_range(start: int, stop: int, indices: list[int]) -> None:
    """A range is held by the frames from its first to its last byte."""
    wanted = ByteRange(start, stop)
    assert list(TABLE.indices_for(wanted)) == indices
    assert TABLE.frames_for(wanted) == tuple(TABLE.entries[index] for index in indices)


def test_sizes_from_elsewhere() -> None:
    """The table's sums are compared with the sizes that the manifest or the file gives."""
    TABLE.check_sizes(TABLE.content_bytes, TABLE.stored_bytes)
    with pytest.raises(FormatError, match=r"frames of 4194409 bytes in 4000074: expected 4194409 in 4000075"):
        TABLE.check_sizes(TABLE.content_bytes, TABLE.stored_bytes + 1)
    with pytest.raises(FormatError):
        TABLE.check_sizes(TABLE.content_bytes - 1, TABLE.stored_bytes)


def test_no_frames() -> None:
    """A twin has at least the frame of its header."""
    with pytest.raises(FormatError, match="no frames"):
        SeekTable.of([])


def test_a_file_of_100_gib() -> None:
    """A table of many thousand frames, beyond 4 GiB on both sides, is written, read and searched."""
    table = SeekTable.of([(1000, 500)] + [(FRAME_BYTES, FRAME_BYTES - 1000)] * 25_600)
    assert SeekTable.parse(table.dump()).content_bytes == 1000 + 25_600 * FRAME_BYTES
    [entry] = table.frames_for(ByteRange(table.content_bytes - 1, table.content_bytes))
    assert entry is table.entries[-1]
