"""Hostile seek tables, each with the error it must give."""

from __future__ import annotations

import struct

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.seek_table import FOOTER_BYTES, SeekTable, table_length


def table(
    *entries: tuple[int, int],
    magic: int = 0x184D2A5E,
    frame_bytes: int | None = None,
    count: int | None = None,
    descriptor: int = 0,
    seekable_magic: int = 0x8F92EAB1,
) -> bytes:
    """Put a table together; entries are stored bytes and content bytes."""
    body = b"".join(struct.pack("<II", *entry) for entry in entries)
    body += struct.pack("<IBI", len(entries) if count is None else count, descriptor, seekable_magic)
    return struct.pack("<II", magic, len(body) if frame_bytes is None else frame_bytes) + body


ENTRY = (60, 100)
MIB = 1 << 20

# Name: bytes, what the error says.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes: expected at least 17"),
    "a footer alone": (table(ENTRY)[-9:], "9 bytes: expected at least 17"),
    "no frames": (table(), "0 frames: expected 1 to"),
    "another magic": (table(ENTRY, magic=0x184D2A5F), "begins 184d2a5f: expected 184d2a5e"),
    "another magic at the end": (table(ENTRY, seekable_magic=0), "ends 00000000: expected 8f92eab1"),
    "a lying frame size": (
        table(ENTRY, frame_bytes=2**32 - 1),
        "25 bytes that claim 4294967295 for 1 frames",
    ),
    "a count one too high": (table(ENTRY, count=2), "25 bytes that claim 17 for 2 frames: expected 33"),
    "a count one too low": (table(ENTRY, ENTRY, count=1), "33 bytes that claim 25 for 1 frames: expected 25"),
    "a count of 2^32-1": (table(ENTRY, count=2**32 - 1), "4294967295 frames: expected 1 to 134217728"),
    "checksums claimed but absent": (table(ENTRY, descriptor=0x80), "expected 29"),
    "reserved bits": (table(ENTRY, descriptor=0x04), "descriptor 04: reserved bits set"),
    "truncated by 1": (table(ENTRY)[:-1], "ends 92eab100"),
    "one byte of garbage before": (b"\0" + table(ENTRY), "begins 4d2a5e00"),
    "one byte of garbage after": (table(ENTRY) + b"\0", "ends 008f92ea"),
    "an empty frame": (table(ENTRY, (60, 0)), "frame 1: 0 bytes of content, expected 1 to 4194304"),
    "a frame that takes nothing": (table(ENTRY, (0, 100)), "frame 1: 0 bytes for 100 of content"),
    "a frame beyond 4 MiB": (
        table(ENTRY, (3 * MIB, 4 * MIB + 1)),
        "frame 1: 4194305 bytes of content, expected 1 to 4194304",
    ),
    "a frame stored in more than zstd ever needs": (table(ENTRY, (2**32 - 1, 100)), "which zstd never makes"),
    "a frame that no zstd frame can hold": (table(ENTRY, (127, 4 * MIB)), "which zstd never makes"),
    "a header of 4 GiB": (table((2**32 - 1, 2**32 - 1)), "frame 0: 4294967295 bytes of content"),
    "a header of 100 MB in 100 bytes": (table((100, 100_000_000)), "which zstd never makes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_error(name: str) -> None:
    """A hostile table gives the one error, which says what is wrong."""
    data, message = HOSTILE[name]
    with pytest.raises(FormatError) as caught:
        SeekTable.parse(data)
    assert caught.value.what == "seek table"
    assert message in caught.value.reason


@pytest.mark.parametrize(
    ("footer", "message"),
    [
        (b"", "footer of 0 bytes: expected 9"),
        (bytes(9), "ends 00000000"),
        (table(ENTRY, count=0)[-9:], "0 frames"),
        (table(ENTRY, count=2**31)[-9:], "2147483648 frames"),
        (table(ENTRY, descriptor=0x7C)[-9:], "reserved bits set"),
    ],
)
def test_footer(footer: bytes, message: str) -> None:
    """A footer that no table has never gives a length to fetch."""
    with pytest.raises(FormatError, match=message):
        table_length(footer)


def test_good_table_is_good() -> None:
    """The table that the hostile ones are made from is read."""
    assert len(SeekTable.parse(table(ENTRY)).entries) == 1
    assert table_length(table(ENTRY)[-FOOTER_BYTES:]) == len(table(ENTRY))
