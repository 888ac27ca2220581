"""Byte ranges: HTTP's spelling (RFC 9110, 14) and the planner's arithmetic."""

from __future__ import annotations

import pytest

from hotstart.wire.errors import FormatError
from hotstart.wire.ranges import (
    ByteRange,
    RangeNotSatisfiable,
    coalesce,
    content_range,
    parse_content_range,
    parse_range,
    split,
    subtract,
)


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=0-100", 0, 100),
        ("bytes=0-9999999999999999999", 0, 100),
        ("bytes=99-", 99, 100),
        ("bytes=-1", 99, 100),
        ("bytes=-100", 0, 100),
        ("bytes=-101", 0, 100),
        ("bytes= 5-6 ", 5, 7),
        ("BYTES=5-6", 5, 7),
        ("bytes=005-006", 5, 7),
    ],
)
def test_satisfiable(value: str, start: int, stop: int) -> None:
    """A single valid range is answered with the bytes that there are of it."""
    assert parse_range(value, 100) == ByteRange(start, stop)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=500-4",
        "bytes=0-1,5-6",
        "bytes=0-1,",
        "bytes=a-b",
        "bytes=+1-2",
        "bytes=1_0-20",
        "bytes=0x1-2",
        "bytes=٣-٤",
        "bytes=1-2\n",
        "bytes=--1",
        "bytes =0-1",
        "pieces=0-1",
        "bytes=0-" + "9" * 20,
    ],
)
def test_ignored(value: str | None) -> None:
    """No header, another unit, a malformed value or several ranges get the whole."""
    assert parse_range(value, 100) is None


@pytest.mark.parametrize(
    ("value", "size"),
    [("bytes=100-", 100), ("bytes=100-200", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-5", 0)],
)
def test_not_satisfiable(value: str, size: int) -> None:
    """A valid range without a byte of the representation is 416, with the size for Content-Range."""
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(value, size)
    assert caught.value.size == size


def test_headers_round_trip() -> None:
    """What one side writes the other reads."""
    sent = ByteRange(5, 100)
    assert parse_range(sent.header(), 1000) == sent
    assert parse_content_range(content_range(sent, 1000)) == (sent, 1000)
    assert parse_content_range("bytes 5-99/*") == (sent, None)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes */100",
        "bytes 5-4/100",
        "bytes 0-100/100",
        "bytes 0-1/" + "9" * 20,
        "bytes=0-1/2",
        "bytes 0-1/2 ",
        "bytes 0-9999999999999999998/9999999999999999999",
    ],
)
def test_content_range_that_contradicts_itself(value: str) -> None:
    """A Content-Range that no server should send is the documented error."""
    with pytest.raises(FormatError):
        parse_content_range(value)


@pytest.mark.parametrize(("start", "stop"), [(-1, 0), (2, 1), (0, 2**63)])
def test_impossible_ranges(start: int, stop: int) -> None:
    """A range is within what a file can have."""
    with pytest.raises(FormatError, match="byte range"):
        ByteRange(start, stop)


def test_length_and_intersection() -> None:
    """Ranges are half-open; what does not overlap has an empty intersection."""
    assert len(ByteRange(3, 10)) == 7
    assert len(ByteRange(0, 2**63 - 1)) == 2**63 - 1
    assert ByteRange(3, 10).intersection(ByteRange(5, 20)) == ByteRange(5, 10)
    assert len(ByteRange(3, 10).intersection(ByteRange(10, 20))) == 0
    assert len(ByteRange(30, 40).intersection(ByteRange(10, 20))) == 0


def ranges(*pairs: tuple[int, int]) -> list[ByteRange]:
    return [ByteRange(start, stop) for start, stop in pairs]


@pytest.mark.parametrize(
    ("given", "gap", "merged"),
    [
        ([], 0, []),
        ([(3, 3)], 0, []),
        ([(5, 9), (0, 5)], 0, [(0, 9)]),
        ([(0, 4), (5, 9)], 0, [(0, 4), (5, 9)]),
        ([(0, 4), (5, 9)], 1, [(0, 9)]),
        ([(0, 10), (2, 3)], 0, [(0, 10)]),
        ([(0, 4), (2, 6), (20, 30)], 3, [(0, 6), (20, 30)]),
    ],
)
def test_coalesce(given: list[tuple[int, int]], gap: int, merged: list[tuple[int, int]]) -> None:
    """Ranges that touch, overlap or nearly touch become one."""
    assert coalesce(ranges(*given), gap) == ranges(*merged)


@pytest.mark.parametrize(
    ("whole", "longest", "align", "cuts"),
    [
        ((0, 0), 8, 4, []),
        ((0, 8), 8, 4, [(0, 8)]),
        ((0, 9), 8, 4, [(0, 8), (8, 9)]),
        ((3, 20), 8, 4, [(3, 8), (8, 16), (16, 20)]),
        ((7, 9), 4, 4, [(7, 8), (8, 9)]),
        ((5, 25), 10, 1, [(5, 15), (15, 25)]),
    ],
)
def test_split(whole: tuple[int, int], longest: int, align: int, cuts: list[tuple[int, int]]) -> None:
    """Cuts follow each other, none is too long, and inner borders are aligned."""
    assert split(ByteRange(*whole), longest, align) == ranges(*cuts)


@pytest.mark.parametrize(
    ("wanted", "done", "left"),
    [
        ((0, 10), [], [(0, 10)]),
        ((0, 10), [(0, 10)], []),
        ((0, 10), [(3, 5)], [(0, 3), (5, 10)]),
        ((0, 10), [(8, 20), (0, 2)], [(2, 8)]),
        ((5, 10), [(0, 3), (20, 30)], [(5, 10)]),
        ((5, 5), [(0, 3)], []),
    ],
)
def test_subtract(wanted: tuple[int, int], done: list[tuple[int, int]], left: list[tuple[int, int]]) -> None:
    """What is left is what is wanted and not done."""
    assert subtract(ByteRange(*wanted), ranges(*done)) == ranges(*left)
