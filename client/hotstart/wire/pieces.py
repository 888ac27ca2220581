"""Pieces: 4 MiB of a representation with a crc32 each, the unit that is verified before it is used."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import FormatError, IntegrityError
from .ranges import ByteRange

__all__ = ["PIECE_BYTES", "PieceHasher", "Pieces", "piece_count", "piece_range", "pieces_of"]

PIECE_BYTES = 4 * 1024 * 1024
SHA256_16_BYTES = 16


def piece_count(size: int) -> int:
    """Return how many pieces size bytes make; an empty file has none."""
    return -(-size // PIECE_BYTES)


def piece_range(index: int, size: int) -> ByteRange:
    """Return the bytes of piece index in a representation of size bytes."""
    start = index * PIECE_BYTES
    return ByteRange(start, min(start + PIECE_BYTES, size))


def pieces_of(wanted: ByteRange) -> range:
    """Return the indices of all pieces that wanted touches."""
    if wanted.start == wanted.stop:
        return range(0)
    return range(wanted.start // PIECE_BYTES, (wanted.stop - 1) // PIECE_BYTES + 1)


@dataclass(frozen=True, slots=True)
class Pieces:
    """The digests of all pieces of one representation.

    Attributes:
        crc32: one unsigned 32-bit value a piece (zlib's crc32).
        sha256_16: the first 16 bytes of each piece's sha256, joined; empty if unknown.
    """

    crc32: tuple[int, ...]
    sha256_16: bytes

    def __post_init__(self) -> None:
        if self.sha256_16 and len(self.sha256_16) != len(self.crc32) * SHA256_16_BYTES:
            raise FormatError(
                "pieces", f"{len(self.crc32)} crc32 but {len(self.sha256_16)} bytes of sha256_16"
            )

    def check(self, index: int, data: bytes | bytearray | memoryview, what: str) -> None:
        """Compare one whole piece with its crc32.

        Raises:
            IntegrityError: they differ; what and the piece's index are named.
        """
        self.check_crc32(index, zlib.crc32(data), what)

    def check_crc32(self, index: int, found: int, what: str) -> None:
        """Compare a crc32 computed elsewhere with that of piece index (errors as check)."""
        if found != self.crc32[index]:
            raise IntegrityError(f"piece {index} of {what}", f"crc32 {self.crc32[index]:08x}", f"{found:08x}")


class PieceHasher:
    """Digest a stream in one pass: sha256 of the whole, crc32 and sha256_16 of every piece."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._piece = hashlib.sha256()
        self._crc32 = 0
        self._piece_filled = 0
        self._crc32s: list[int] = []
        self._sha256_16s: list[bytes] = []
        self.size = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; any cutting gives the same digests."""
        view = memoryview(data).cast("B")
        self._whole.update(view)
        self.size += len(view)
        while view:
            part = view[: PIECE_BYTES - self._piece_filled]
            self._crc32 = zlib.crc32(part, self._crc32)
            self._piece.update(part)
            self._piece_filled += len(part)
            if self._piece_filled == PIECE_BYTES:
                self._end_piece()
            view = view[len(part) :]

    def _end_piece(self) -> None:
        self._crc32s.append(self._crc32)
        self._sha256_16s.append(self._piece.digest()[:SHA256_16_BYTES])
        self._piece = hashlib.sha256()
        self._crc32 = 0
        self._piece_filled = 0

    def finish(self) -> tuple[str, Pieces]:
        """Return the sha256 of all bytes in hex, and the pieces; call once, last."""
        if self._piece_filled:
            self._end_piece()
        return self._whole.hexdigest(), Pieces(tuple(self._crc32s), b"".join(self._sha256_16s))


def missing_runs(done: Sequence[bool], wanted: range, longest: int) -> list[range]:
    """Return the runs of consecutive pieces in wanted that are not done, none longer than longest pieces."""
    runs: list[range] = []
    start: int | None = None
    for index in wanted:
        if done[index]:
            start = None
            continue
        if start is None or index - start == longest:
            start = index
            runs.append(range(index, index + 1))
        else:
            runs[-1] = range(start, index + 1)
    return runs
