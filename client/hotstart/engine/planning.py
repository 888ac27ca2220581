"""The plan, pure: which ranges of a file are asked for, by how many threads, and in which representation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from hotstart.sources.base import SourceKind
from hotstart.wire.errors import HotstartError
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange, coalesce, split
from hotstart.wire.seek_table import SeekTable
from hotstart.wire.twin_forms import PLANES_SUFFIX, ZSTD_SUFFIX

__all__ = [
    "ITEM_BYTES",
    "MAX_BUFFERING_WORKERS",
    "Compression",
    "InvalidOption",
    "Verification",
    "cut",
    "cut_frames",
    "decoder_count",
    "frames_within",
    "grown_count",
    "item_bytes",
    "whole_pieces",
    "worker_count",
]

# One request. S3's own parts are of this size, and on loopback longer ranges gain nothing.
ITEM_BYTES = 2 * PIECE_BYTES
# A worker that decodes holds a frame, one that writes files a piece: up to 4 MiB. A decoder holds zstd's
# window and a frame of planes: up to 8. All stay within the 64 MiB that a load may use beyond its tensors.
MAX_BUFFERING_WORKERS = 7
_MAX_DECODERS = 3


# Threads that wait for S3's first bytes cost no CPU, so their number is not of the CPUs'. 32 connections of
# S3's, at 85 MB/s and half of the time without a byte, fill 10 Gbit/s.
_FIRST_TO_AN_ORIGIN = 16
_MOST_TO_A_PROXY = 16
_MOST = 32
# Bytes a second: no store that paces its connections gives one so much.
_FAST_CONNECTION = 200e6
_WORTH_MORE = 1.15


class InvalidOption(HotstartError):
    """An argument has a value that it cannot have.

    Attributes:
        name: of the argument.
        value: what was given.
        expected: what could have been given.
    """

    def __init__(self, name: str, value: object, expected: str) -> None:
        self.name = name
        self.value = value
        self.expected = expected
        super().__init__(f"{name}={value!r}: expected {expected}")


class Compression(StrEnum):
    """What to ask for: ``auto`` is for ``picking`` to decide."""

    AUTO = "auto"
    NONE = "none"
    ZSTD = "zstd"
    PLANES = "planes"

    @classmethod
    def parse(cls, text: str) -> Compression:
        """Return the member of this name.

        Raises:
            InvalidOption: there is none.
        """
        try:
            return cls(text)
        except ValueError as error:
            raise InvalidOption("compression", text, "auto, none, zstd or planes") from error

    def suffixes(self, kind: SourceKind, *, is_local: bool) -> tuple[str, ...]:
        """Return the suffixes of the twins to ask such a source for, the best first; none for identity."""
        if kind is SourceKind.SHARED:
            return ()
        match self:
            case Compression.NONE:
                return ()
            case Compression.ZSTD:
                return (ZSTD_SUFFIX,)
            case Compression.PLANES:
                return (PLANES_SUFFIX,)
        return () if is_local or kind is SourceKind.UNIX else (ZSTD_SUFFIX,)


class Verification(StrEnum):
    """What is checked. ``auto`` checks pieces of what came over a network and trusts this host."""

    AUTO = "auto"
    NONE = "none"
    PIECES = "pieces"
    FULL = "full"

    @classmethod
    def parse(cls, text: str | None) -> Verification:
        """Return the member of this name; None is ``auto``.

        Raises:
            InvalidOption: there is none.
        """
        try:
            return cls.AUTO if text is None else cls(text)
        except ValueError as error:
            raise InvalidOption("verify", text, "None, 'none', 'pieces' or 'full'") from error

    def checks_pieces(self, kind: SourceKind) -> bool:
        """Tell whether the pieces that come from such a source are checked."""
        if self is Verification.AUTO:
            return kind in (SourceKind.TCP, SourceKind.PRESIGNED, SourceKind.ORIGIN)
        return self is not Verification.NONE


def item_bytes(kind: SourceKind, size: int) -> int:
    """Return the longest request for a file of size bytes.

    From a proxy, longer ones than ``ITEM_BYTES`` gain nothing. S3 lets every request wait 100 ms, as long as
    8 MiB take to arrive; twice as much wastes a third of the time rather than half, where the file is long
    enough that all connections have several.
    """
    longer = 2 * ITEM_BYTES
    is_far = kind in (SourceKind.PRESIGNED, SourceKind.ORIGIN)
    return longer if is_far and size >= 2 * _FIRST_TO_AN_ORIGIN * longer else ITEM_BYTES


def cut(ranges: Iterable[ByteRange], longest: int = ITEM_BYTES) -> list[ByteRange]:
    """Cut identity ranges into requests whose inner borders are those of pieces, in order.

    Args:
        ranges: what is wanted; they may overlap.
        longest: bytes, a multiple of the piece.
    """
    return [part for whole in coalesce(ranges) for part in split(whole, longest, PIECE_BYTES)]


def cut_frames(table: SeekTable, ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """Cut identity ranges into requests for runs of whole frames, in order.

    Returns:
        Identity ranges that begin and end with a frame and cover the ranges. None is longer than
        ``ITEM_BYTES``, unless a single frame is.
    """
    cuts: list[ByteRange] = []
    reached = 0
    for wanted in coalesce(ranges):
        start = max(wanted.start, reached)
        for entry in table.frames_for(ByteRange(start, max(start, wanted.stop))):
            content = entry.content
            last = cuts[-1] if cuts else None
            if last is not None and last.stop == content.start and content.stop - last.start <= ITEM_BYTES:
                cuts[-1] = ByteRange(last.start, content.stop)
            else:
                cuts.append(content)
            reached = content.stop
    return cuts


def frames_within(table: SeekTable, ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """Return the parts of identity ranges that whole frames hold, merged, in order.

    What is left of a plan that was made without the frames begins and ends within some: their other bytes are
    somebody else's.
    """
    inside = [
        entry.content
        for whole in coalesce(ranges)
        for entry in table.frames_for(whole)
        if whole.start <= entry.content.start and entry.content.stop <= whole.stop
    ]
    return coalesce(inside)


def whole_pieces(ranges: Iterable[ByteRange], size: int) -> list[ByteRange]:
    """Widen ranges to the borders of the pieces they touch, in a file of size bytes, and merge them."""
    return coalesce(
        ByteRange(
            wanted.start // PIECE_BYTES * PIECE_BYTES, min(-(-wanted.stop // PIECE_BYTES) * PIECE_BYTES, size)
        )
        for wanted in ranges
        if len(wanted)
    )


def worker_count(kind: SourceKind, cpus: int, items: int, *, buffers: bool) -> int:
    """Return how many threads, each with a connection of its own, a source is read with.

    A Unix socket is memory traffic: more threads than CPUs get in each other's way. TCP needs four
    connections to fill a link. S3 gives 85 MB/s a connection, so there the count is what makes the speed.

    Args:
        kind: of the source.
        cpus: that the process may use.
        items: requests that are left; none of the threads would have less than one.
        buffers: whether bytes pass through memory of the worker, rather than straight into their place.
    """
    match kind:
        case SourceKind.SHARED | SourceKind.UNIX:
            count = min(max(2, cpus), 4)
        case SourceKind.TCP:
            count = 4
        case _:
            count = _FIRST_TO_AN_ORIGIN
    if buffers:
        count = min(count, MAX_BUFFERING_WORKERS)
    return max(1, min(count, items))


def grown_count(kind: SourceKind, count: int, rate: float, before: float) -> int:
    """Return with how many connections to go on, having seen what so many bring.

    More are tried as long as they bring more: S3, and a proxy that redirects to it, give each connection the
    same pace; a link that is full gives all of them nothing more.

    Args:
        kind: of the source.
        count: connections by now.
        rate: bytes a second over all of them.
        before: the same with fewer; 0 where these are the first.
    """
    if kind in (SourceKind.UNIX, SourceKind.SHARED):
        return count
    most = _MOST_TO_A_PROXY if kind is SourceKind.TCP else _MOST
    if count >= most or rate >= count * _FAST_CONNECTION or rate < before * _WORTH_MORE:
        return count
    return min(count + max(2, count // 2), most)


def decoder_count(cpus: int) -> int:
    """Return how many frames are decoded at once: more than there are CPUs would only take memory."""
    return min(cpus, _MAX_DECODERS)


def gaps(whole: Sequence[ByteRange], wanted: Iterable[ByteRange]) -> list[ByteRange]:
    """Return the parts of whole (disjoint, in order) that wanted does not cover."""
    found: list[ByteRange] = []
    wanted_in_order = coalesce(wanted)
    index = 0
    for outer in whole:
        start = outer.start
        while index < len(wanted_in_order) and wanted_in_order[index].start < outer.stop:
            inner = wanted_in_order[index]
            if inner.start > start:
                found.append(ByteRange(start, inner.start))
            start = max(start, inner.stop)
            if inner.stop > outer.stop:
                break
            index += 1
        if start < outer.stop:
            found.append(ByteRange(start, outer.stop))
    return found
