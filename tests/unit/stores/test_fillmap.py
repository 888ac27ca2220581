"""The map of a partial blob: what is written is read, and anything else is the one documented error."""

from __future__ import annotations

import contextlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.wire.errors import FormatError
from hotstart.wire.pieces import PIECE_BYTES
from hotstart_proxy.stores.fillmap import FillMap, entry_at, entry_bytes, new_map

ID = "0123456789abcdef" * 4


def with_entry(data: bytes, piece: int, crc32: int | None) -> bytes:
    entry = entry_bytes(crc32)
    return data[: entry_at(piece)] + entry + data[entry_at(piece) + len(entry) :]


def test_a_new_map_by_the_byte() -> None:
    """A new map is a head of 52 bytes and 8 zero bytes for each piece."""
    data = new_map(ID, PIECE_BYTES + 1)
    assert data[:8] == b"HSFILL1\0"
    assert data[8:16] == (PIECE_BYTES + 1).to_bytes(8, "little")
    assert data[16:48] == bytes.fromhex(ID)
    assert len(data) == 52 + 2 * 8
    assert data[52:] == bytes(16)


def test_entries() -> None:
    """An entry says that its piece is verified, and with which crc32; also with 0."""
    data = with_entry(with_entry(new_map(ID, 3 * PIECE_BYTES), 0, 0), 2, 0xFFFFFFFF)
    assert FillMap.parse(data) == FillMap(ID, 3 * PIECE_BYTES, (0, None, 0xFFFFFFFF))
    assert FillMap.parse(with_entry(data, 0, None)).crc32 == (None, None, 0xFFFFFFFF)


def test_an_empty_blob() -> None:
    """The map of an empty blob is a head alone."""
    assert FillMap.parse(new_map(ID, 0)) == FillMap(ID, 0, ())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "0 bytes: expected at least 52"),
        (lambda data: data[:51], "51 bytes: expected at least 52"),
        (lambda data: b"HSFILL2\0" + data[8:], "damaged or of another format"),
        (lambda data: data[:8] + b"\xff" + data[9:], "damaged or of another format"),
        (lambda data: data[:-1], "do not fit 2 pieces"),
        (lambda data: data + b"\0", "do not fit 2 pieces"),
        (lambda data: data[:52] + b"\2" + data[53:], "piece 0 has the flag 2"),
    ],
)
def test_damage(damage: object, reason: str) -> None:
    """Each damage is a FormatError that says what was found."""
    assert callable(damage)
    with pytest.raises(FormatError, match=reason):
        FillMap.parse(damage(new_map(ID, 2 * PIECE_BYTES)))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Any bytes are parsed or raise FormatError."""
    with contextlib.suppress(FormatError):
        FillMap.parse(data)


@given(st.integers(0, 51), st.integers(1, 255))
def test_a_damaged_head_is_noticed(place: int, change: int) -> None:
    """No change to a byte of the head goes unnoticed."""
    data = bytearray(new_map(ID, PIECE_BYTES))
    data[place] ^= change
    with pytest.raises(FormatError):
        FillMap.parse(bytes(data))


def test_a_size_that_lies() -> None:
    """A head that is sound but claims an enormous blob is refused before anything is allocated for it."""
    head = b"HSFILL1\0" + (2**63).to_bytes(8, "little") + bytes.fromhex(ID)
    with pytest.raises(FormatError, match="60 bytes do not fit"):
        FillMap.parse(head + zlib.crc32(head).to_bytes(4, "little") + bytes(8))
