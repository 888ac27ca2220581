"""Byte ranges: the value object, HTTP's spelling of it (RFC 9110, section 14), and the planner.

The planner turns what is wanted into requests: coalesce what lies close, split what is long, order what is
left. It decides; others fetch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import FormatError

__all__ = [
    "ByteRange",
    "RangeNotSatisfiable",
    "coalesce",
    "content_range",
    "parse_content_range",
    "parse_range",
    "split",
    "subtract",
]

# What len() and file offsets can count.
_MAX_OFFSET = 2**63 - 1
_ONE_RANGE = re.compile(r"bytes=[ \t]*(?:(\d{1,19})-(\d{1,19})?|-(\d{1,19}))[ \t]*", re.ASCII | re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes from start (inclusive) to stop (exclusive); empty where they are equal."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= _MAX_OFFSET:
            raise FormatError(
                "byte range", f"start {self.start} and stop {self.stop}: expected 0 <= start <= stop < 2^63"
            )

    def __len__(self) -> int:
        return self.stop - self.start

    def header(self) -> str:
        """Return the value of a ``Range`` header; the range must not be empty."""
        return f"bytes={self.start}-{self.stop - 1}"

    def intersection(self, other: ByteRange) -> ByteRange:
        """Return what both cover, empty (at the later start) if nothing."""
        start = max(self.start, other.start)
        return ByteRange(start, max(start, min(self.stop, other.stop)))


class RangeNotSatisfiable(FormatError):
    """A valid Range that no byte of the representation satisfies (416)."""

    def __init__(self, value: str, size: int) -> None:
        self.size = size
        super().__init__("Range", f"{value!r} lies outside the {size} bytes")


def parse_range(value: str | None, size: int) -> ByteRange | None:
    """Parse a ``Range`` header against a representation of size bytes.

    Returns:
        The one range to send with 206; None to send the whole with 200: no header, an unknown unit, a
        malformed value, or several ranges (a server may ignore Range, RFC 9110 14.2).

    Raises:
        RangeNotSatisfiable: a single valid range that starts at or past the end, or ``bytes=-0``.
    """
    match = _ONE_RANGE.fullmatch(value) if value is not None else None
    if value is None or match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        length = min(int(suffix), size)
        if length == 0:
            raise RangeNotSatisfiable(value, size)
        return ByteRange(size - length, size)
    start = int(first)
    stop = size if last is None else min(int(last) + 1, size)
    if last is not None and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable(value, size)
    return ByteRange(start, stop)


def content_range(sent: ByteRange, size: int) -> str:
    """Return the value of ``Content-Range`` for a 206."""
    return f"bytes {sent.start}-{sent.stop - 1}/{size}"


def parse_content_range(value: str) -> tuple[ByteRange, int | None]:
    """Parse the ``Content-Range`` of a 206.

    Returns:
        The range, and the whole size or None where the sender wrote ``*``.

    Raises:
        FormatError: the value is malformed or contradicts itself.
    """
    match = _CONTENT_RANGE.fullmatch(value)
    if match is None:
        raise FormatError("Content-Range", f"{value[:120]!r}: expected bytes FIRST-LAST/SIZE")
    first, last = int(match[1]), int(match[2])
    size = None if match[3] == "*" else int(match[3])
    if last < first or (size is not None and last >= size):
        raise FormatError("Content-Range", f"{value[:120]!r} contradicts itself")
    return ByteRange(first, last + 1), size


def coalesce(ranges: Iterable[ByteRange], gap: int = 0) -> list[ByteRange]:
    """Sort ranges and merge those that overlap or lie at most gap bytes apart; empty ones vanish."""
    merged: list[ByteRange] = []
    for item in sorted(ranges):
        if not len(item):
            continue
        if merged and item.start - merged[-1].stop <= gap:
            merged[-1] = ByteRange(merged[-1].start, max(merged[-1].stop, item.stop))
        else:
            merged.append(item)
    return merged


def split(whole: ByteRange, longest: int, align: int = 1) -> list[ByteRange]:
    """Cut whole into ranges of at most longest bytes whose inner borders are multiples of align.

    Args:
        whole: what to cut.
        longest: bytes, a positive multiple of align.
        align: bytes.
    """
    cuts: list[ByteRange] = []
    start = whole.start
    while start < whole.stop:
        stop = min((start // align) * align + longest, whole.stop)
        cuts.append(ByteRange(start, stop))
        start = stop
    return cuts


def subtract(wanted: ByteRange, done: Iterable[ByteRange]) -> list[ByteRange]:
    """Return the parts of wanted that no range in done covers, in order."""
    left: list[ByteRange] = []
    start = wanted.start
    for item in coalesce(done):
        cut = item.intersection(wanted)
        if not len(cut):
            continue
        if cut.start > start:
            left.append(ByteRange(start, cut.start))
        start = max(start, cut.stop)
    if start < wanted.stop:
        left.append(ByteRange(start, wanted.stop))
    return left
