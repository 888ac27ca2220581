"""Pieces: cutting, digests in one pass, and comparing."""

from __future__ import annotations

import hashlib
import zlib

import pytest

from hotstart.wire.errors import FormatError, IntegrityError
from hotstart.wire.pieces import (
    PIECE_BYTES,
    PieceHasher,
    Pieces,
    missing_runs,
    piece_count,
    piece_range,
    pieces_of,
)
from hotstart.wire.ranges import ByteRange


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 0), (1, 1), (PIECE_BYTES, 1), (PIECE_BYTES + 1, 2), (2**40, 2**40 // PIECE_BYTES)],
)
def test_pieces_cover_a_file(size: int, count: int) -> None:
    """The pieces of a file follow each other to its end; an empty file has none."""
    assert piece_count(size) == count
    if count:
        assert piece_range(0, size).start == 0
        assert piece_range(count - 1, size).stop == size
        assert 1 <= len(piece_range(count - 1, size)) <= PIECE_BYTES


@pytest.mark.parametrize(
    ("start", "stop", "indices"),
    [
        (0, 0, []),
        (5, 5, []),
        (0, 1, [0]),
        (PIECE_BYTES - 1, PIECE_BYTES, [0]),
        (PIECE_BYTES - 1, PIECE_BYTES + 1, [0, 1]),
        (PIECE_BYTES, 2 * PIECE_BYTES, [1]),
    ],
)
def test_pieces_that_a_range_touches(start: int, stop: int, indices: list[int]) -> None:
    """A range touches the pieces that hold its first to its last byte."""
    assert list(pieces_of(ByteRange(start, stop))) == indices


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 7])
@pytest.mark.parametrize("step", [1 << 20, PIECE_BYTES - 1, 3 * PIECE_BYTES])
def test_hasher_does_not_depend_on_cutting(size: int, step: int) -> None:
    """However the bytes arrive, the digests are those of the whole and of each 4 MiB of it."""
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    hasher = PieceHasher()
    for start in range(0, size, step):
        hasher.update(data[start : start + step])
    hasher.update(b"")
    sha256, pieces = hasher.finish()
    cuts = [data[start : start + PIECE_BYTES] for start in range(0, size, PIECE_BYTES)]
    assert hasher.size == size
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert pieces.crc32 == tuple(zlib.crc32(cut) for cut in cuts)
    assert pieces.sha256_16 == b"".join(hashlib.sha256(cut).digest()[:16] for cut in cuts)


def test_check_finds_a_flipped_bit() -> None:
    """One bit flipped in a piece is an error that names the piece and both digests."""
    data = bytearray(1000)
    pieces = Pieces((zlib.crc32(data),), b"")
    pieces.check(0, data, "org/bert@7/model.safetensors")
    data[500] ^= 1
    with pytest.raises(IntegrityError, match=r"piece 0 of org/bert@7/model.safetensors is damaged") as caught:
        pieces.check(0, data, "org/bert@7/model.safetensors")
    assert caught.value.expected == f"crc32 {pieces.crc32[0]:08x}"


def test_digests_must_match_in_number() -> None:
    """Pieces with more or fewer sha256_16 than crc32 cannot be made; none at all can."""
    Pieces((1, 2), b"")
    Pieces((1, 2), bytes(32))
    with pytest.raises(FormatError, match="2 crc32 but 16 bytes"):
        Pieces((1, 2), bytes(16))


@pytest.mark.parametrize(
    ("done", "longest", "runs"),
    [
        ("", 4, []),
        ("1111", 4, []),
        ("0000", 4, [(0, 4)]),
        ("0000", 2, [(0, 2), (2, 4)]),
        ("00000", 2, [(0, 2), (2, 4), (4, 5)]),
        ("0100", 4, [(0, 1), (2, 4)]),
        ("1001", 1, [(1, 2), (2, 3)]),
    ],
)
def test_missing_runs(done: str, longest: int, runs: list[tuple[int, int]]) -> None:
    """What is missing is asked for in runs that pass over nothing done and are not too long."""
    found = missing_runs([mark == "1" for mark in done], range(len(done)), longest)
    assert [(run.start, run.stop) for run in found] == runs


def test_missing_runs_stay_within_what_is_wanted() -> None:
    """Pieces outside the wanted ones are not asked for."""
    assert missing_runs([False] * 10, range(3, 5), 8) == [range(3, 5)]
