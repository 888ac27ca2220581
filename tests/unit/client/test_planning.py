"""What is asked for: cuts, frames, whole pieces, threads, and the options' meanings."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.engine.planning import (
    ITEM_BYTES,
    Compression,
    InvalidOption,
    Verification,
    cut,
    cut_frames,
    gaps,
    grown_count,
    item_bytes,
    whole_pieces,
    worker_count,
)
from hotstart.sources.base import SourceKind
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart.wire.seek_table import SeekTable

MEBIBYTE = 1024 * 1024
SIZE = 30 * MEBIBYTE
RANGES = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.integers(0, 9 * MEBIBYTE)).map(
        lambda pair: ByteRange(pair[0], min(sum(pair), SIZE))
    ),
    max_size=5,
)


def covered(ranges: list[ByteRange]) -> int:
    return sum(len(item) for item in ranges)


@given(RANGES)
def test_cuts_are_disjoint_aligned_and_short(wanted: list[ByteRange]) -> None:
    """Requests cover what is wanted once, are at most 8 MiB, and meet at the borders of pieces."""
    cuts = cut(wanted)
    assert all(0 < len(item) <= ITEM_BYTES for item in cuts)
    for left, right in itertools.pairwise(cuts):
        assert left.stop <= right.start
        assert left.stop < right.start or left.stop % PIECE_BYTES == 0
    offsets = {offset for item in wanted for offset in (item.start, item.stop - 1) if len(item)}
    assert all(any(item.start <= offset < item.stop for item in cuts) for offset in offsets)


@given(RANGES)
def test_whole_pieces_are_whole(wanted: list[ByteRange]) -> None:
    """Widened ranges begin and end with a piece or the file, cover what was wanted, and nothing twice."""
    size = SIZE - 12345
    wanted = [item.intersection(ByteRange(0, size)) for item in wanted]
    wide = whole_pieces(wanted, size)
    for item in wide:
        assert item.start % PIECE_BYTES == 0
        assert item.stop % PIECE_BYTES == 0 or item.stop == size
    assert covered(gaps(wide, wanted)) == covered(wide) - covered(cut(wanted))


@given(RANGES, st.lists(st.integers(1, 4 * MEBIBYTE), min_size=1, max_size=12))
def test_requests_for_frames_are_runs_of_whole_frames(wanted: list[ByteRange], sizes: list[int]) -> None:
    """Frames that hold wanted bytes are asked for once, whole, in runs of at most 8 MiB."""
    table = SeekTable.of((size, size // 2 + 10) for size in sizes)
    borders = {0} | {entry.content.stop for entry in table.entries}
    cuts = cut_frames(table, wanted)
    for item in cuts:
        assert item.start in borders
        assert item.stop in borders
        assert len(item) <= ITEM_BYTES
    assert all(left.stop <= right.start for left, right in itertools.pairwise(cuts))
    needed = {entry for item in wanted for entry in table.frames_for(item)}
    assert covered(cuts) == sum(len(entry.content) for entry in needed)


def test_gaps_are_what_is_left_over() -> None:
    """Gaps lie before, between and after, in each of several ranges."""
    assert gaps([ByteRange(0, 10), ByteRange(20, 30)], [ByteRange(2, 4), ByteRange(5, 25)]) == [
        ByteRange(0, 2),
        ByteRange(4, 5),
        ByteRange(25, 30),
    ]
    assert gaps([ByteRange(0, 10)], []) == [ByteRange(0, 10)]
    assert gaps([ByteRange(0, 10)], [ByteRange(0, 10)]) == []


@pytest.mark.parametrize(
    ("kind", "cpus", "items", "buffers", "expected"),
    [
        (SourceKind.UNIX, 1, 100, False, 2),
        (SourceKind.UNIX, 3, 100, False, 3),
        (SourceKind.UNIX, 64, 100, False, 4),
        (SourceKind.TCP, 1, 100, False, 4),
        (SourceKind.TCP, 64, 2, False, 2),
        (SourceKind.PRESIGNED, 1, 100, False, 16),
        (SourceKind.ORIGIN, 64, 100, False, 16),
        (SourceKind.ORIGIN, 64, 100, True, 7),
        (SourceKind.ORIGIN, 64, 0, True, 1),
    ],
)
def test_threads_by_source_and_cpus(
    kind: SourceKind, cpus: int, items: int, buffers: bool, expected: int
) -> None:
    """Few threads on this host, four over TCP, many to S3; never more than there is work for."""
    assert worker_count(kind, cpus, items, buffers=buffers) == expected


@pytest.mark.parametrize(
    ("kind", "is_local", "wants"),
    [
        (SourceKind.UNIX, True, False),
        (SourceKind.TCP, True, False),
        (SourceKind.TCP, False, True),
        (SourceKind.PRESIGNED, False, True),
        (SourceKind.ORIGIN, False, True),
        (SourceKind.ORIGIN, True, False),
    ],
)
def test_the_twin_is_for_networks(kind: SourceKind, is_local: bool, wants: bool) -> None:
    """auto asks for the twin where bytes cross a network; none never does, zstd and planes always."""
    assert Compression.AUTO.suffixes(kind, is_local=is_local) == ((".zst",) if wants else ())
    assert Compression.NONE.suffixes(kind, is_local=is_local) == ()
    assert Compression.ZSTD.suffixes(kind, is_local=is_local) == (".zst",)
    assert Compression.PLANES.suffixes(kind, is_local=is_local) == (".zsp",)


@pytest.mark.parametrize("compression", Compression)
def test_a_shared_volume_has_the_file_itself(compression: Compression) -> None:
    """What needs no moving is not asked for in another form."""
    assert compression.suffixes(SourceKind.SHARED, is_local=True) == ()


def test_what_is_checked_by_source() -> None:
    """By default pieces are checked of what came over a network."""
    auto = [kind for kind in SourceKind if Verification.AUTO.checks_pieces(kind)]
    assert auto == [SourceKind.TCP, SourceKind.PRESIGNED, SourceKind.ORIGIN]
    assert all(Verification.PIECES.checks_pieces(kind) for kind in SourceKind)
    assert all(Verification.FULL.checks_pieces(kind) for kind in SourceKind)
    assert not any(Verification.NONE.checks_pieces(kind) for kind in SourceKind)


def test_option_names() -> None:
    """None is the default, and another name says which there are."""
    assert Verification.parse(None) is Verification.AUTO
    with pytest.raises(InvalidOption, match="verify='crc'"):
        Verification.parse("crc")
    with pytest.raises(InvalidOption, match="compression='gzip': expected auto, none, zstd or planes"):
        Compression.parse("gzip")


@pytest.mark.parametrize(
    ("kind", "count", "rate", "before", "expected"),
    [
        # S3: 8, 12, 18 connections bring 85 MB/s each.
        (SourceKind.ORIGIN, 8, 680e6, 0.0, 12),
        (SourceKind.ORIGIN, 12, 1020e6, 680e6, 18),
        (SourceKind.ORIGIN, 27, 2300e6, 1530e6, 32),
        (SourceKind.ORIGIN, 32, 2720e6, 2300e6, 32),
        # A link of 1 Gbit/s is full with four.
        (SourceKind.TCP, 4, 118e6, 0.0, 6),
        (SourceKind.TCP, 6, 119e6, 118e6, 6),
        # A proxy that redirects to S3.
        (SourceKind.TCP, 13, 1100e6, 765e6, 16),
        # 10 Gbit/s and memory: a connection is not what limits.
        (SourceKind.TCP, 4, 1150e6, 0.0, 4),
        (SourceKind.UNIX, 2, 100e6, 0.0, 2),
        (SourceKind.SHARED, 2, 100e6, 0.0, 2),
    ],
)
def test_connections_are_added_while_they_bring_more(
    kind: SourceKind, count: int, rate: float, before: float, expected: int
) -> None:
    """Sources that pace each connection are asked over more; those that a link or memory limits are not."""
    assert grown_count(kind, count, rate, before) == expected


def test_requests_are_longer_where_each_waits_long() -> None:
    """16 MiB from S3, of files so large that every connection has several; 8 MiB from a proxy."""
    assert item_bytes(SourceKind.ORIGIN, 512 * MEBIBYTE) == 16 * MEBIBYTE
    assert item_bytes(SourceKind.PRESIGNED, 511 * MEBIBYTE) == ITEM_BYTES
    assert item_bytes(SourceKind.TCP, 4096 * MEBIBYTE) == ITEM_BYTES
