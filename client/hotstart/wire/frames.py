"""One zstd frame: checked before and after it is decoded into its place (RFC 8878, 3.1.1).

``zstandard`` decodes in one pass into the caller's buffer, but notices neither a missing checksum, nor up to
four missing last bytes, nor what follows the frame. So the frame's layout is walked first, in plain Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import FormatError
from .pieces import PIECE_BYTES

if TYPE_CHECKING:
    import zstandard

__all__ = ["FRAME_BYTES", "FRAME_MAGIC", "FrameDecoder", "check_frame", "content_limit", "stored_limit"]

FRAME_MAGIC = b"\x28\xb5\x2f\xfd"
# The most content in a frame of tensor data: as a piece, since 256 KiB to 4 MiB compress alike and fewer
# frames cost less.
FRAME_BYTES = PIECE_BYTES
_WHAT = "zstd frame"
_CHECKSUM_BYTES = 4
_BLOCK_HEADER_BYTES = 3
_MAX_BLOCK_BYTES = 128 * 1024
# What RFC 8878 asks every decoder to support; a frame of 4 MiB never needs more.
_MAX_WINDOW_BYTES = 8 * 1024 * 1024
_RAW, _RLE, _COMPRESSED = 0, 1, 2
# Bytes of the content size by its flag, without the single-segment flag; 0: not there.
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)


def stored_limit(content_bytes: int) -> int:
    """Return the most bytes that a frame of content_bytes may take: zstd's own bound, and a header."""
    return content_bytes + (content_bytes >> 8) + 128


def content_limit(stored_bytes: int) -> int:
    """Return the most bytes that a frame of stored_bytes can decode to: blocks of one repeated byte."""
    return stored_bytes // (_BLOCK_HEADER_BYTES + 1) * _MAX_BLOCK_BYTES


def check_frame(frame: memoryview, content_bytes: int) -> None:
    """Check all of a frame that decoding does not: its parameters and where its blocks end.

    Args:
        frame: the frame's bytes and nothing else (a contiguous view of bytes).
        content_bytes: what the plan says it decodes to, at least 1.

    Raises:
        FormatError: no frame, no checksum, no or another content size, a dictionary, a window beyond 8 MiB,
            blocks that do not end exactly 4 bytes before the end, or that cannot hold so much.
    """
    position, largest_block = _check_parameters(frame, content_bytes)
    end = len(frame) - _CHECKSUM_BYTES
    last = most = 0
    while not last:
        if position + _BLOCK_HEADER_BYTES > end:
            raise FormatError(_WHAT, f"ends after {len(frame)} bytes, before its last block: truncated")
        word = frame[position] | frame[position + 1] << 8 | frame[position + 2] << 16
        last, kind, size = word & 1, word >> 1 & 3, word >> 3
        if kind > _COMPRESSED:
            raise FormatError(_WHAT, f"block of unknown type {kind} at byte {position}")
        if size > largest_block:
            raise FormatError(_WHAT, f"block of {size} bytes at byte {position}: at most {largest_block}")
        most += largest_block if kind == _COMPRESSED else size
        position += _BLOCK_HEADER_BYTES + (1 if kind == _RLE else size)
    if position > end:
        raise FormatError(_WHAT, f"its last {position - end} bytes are missing: truncated")
    if position < end:
        raise FormatError(_WHAT, f"{end - position} bytes follow its end")
    if most < content_bytes:
        raise FormatError(_WHAT, f"claims {content_bytes} bytes of content: its blocks hold at most {most}")


def _check_parameters(frame: memoryview, content_bytes: int) -> tuple[int, int]:
    """Return where the first block begins, and the most bytes of a block."""
    if frame[:4] != FRAME_MAGIC:
        raise FormatError(
            _WHAT, f"begins {bytes(frame[:4]).hex() or 'nowhere'}: expected {FRAME_MAGIC.hex()}"
        )
    if len(frame) < 5:
        raise FormatError(_WHAT, f"{len(frame)} bytes: truncated in its header")
    descriptor = frame[4]
    single_segment = bool(descriptor & 0x20)
    if descriptor & 0x08:
        raise FormatError(_WHAT, "reserved bit set in its descriptor")
    if not descriptor & 0x04:
        raise FormatError(_WHAT, "no checksum")
    if descriptor & 0x03:
        raise FormatError(_WHAT, "needs a dictionary; frames of this format need none")
    size_bytes = _CONTENT_SIZE_BYTES[descriptor >> 6] or int(single_segment)
    if not size_bytes:
        raise FormatError(_WHAT, "no content size")
    size_start = 5 if single_segment else 6
    position = size_start + size_bytes
    if len(frame) < position:
        raise FormatError(_WHAT, f"{len(frame)} bytes: truncated in its header")
    # A two-byte size counts from 256 (RFC 8878, 3.1.1.1.4).
    claimed = int.from_bytes(frame[size_start:position], "little") + (256 if size_bytes == 2 else 0)
    if claimed != content_bytes:
        raise FormatError(_WHAT, f"claims {claimed} bytes of content: the plan says {content_bytes}")
    if single_segment:
        window = claimed
    else:
        window = 1 << 10 + (frame[5] >> 3)
        window += window // 8 * (frame[5] & 7)
        if window > _MAX_WINDOW_BYTES:
            raise FormatError(_WHAT, f"window of {window} bytes: at most {_MAX_WINDOW_BYTES}")
    return position, min(window, _MAX_BLOCK_BYTES)


class FrameDecoder:
    """Decodes frames into place. One per thread: it reuses a context of zstd."""

    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._decompressor: zstandard.ZstdDecompressor = zstandard.ZstdDecompressor()

    def decode_into(self, frame: memoryview, destination: memoryview) -> None:
        """Decode one frame so that it fills destination exactly. The GIL is released meanwhile.

        Args:
            frame: the frame's bytes and nothing else.
            destination: as many bytes as the plan says, at least 1; after an error its bytes are undefined.

        Raises:
            FormatError: the frame is malformed or damaged, or holds other than len(destination) bytes.
        """
        check_frame(frame, len(destination))
        try:
            with self._decompressor.stream_reader(frame) as reader:
                decoded = reader.readinto(destination)
        except self._error as error:
            raise FormatError(_WHAT, f"damaged: {error}") from error
        if decoded != len(destination):
            raise FormatError(_WHAT, f"decoded {decoded} bytes: the plan says {len(destination)}")
