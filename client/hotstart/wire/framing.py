"""How a Safetensors file is cut into frames and encoded: zstd-framed Safetensors, format 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import FormatError
from .frames import FRAME_BYTES
from .ranges import ByteRange, split
from .safetensors import Header

if TYPE_CHECKING:
    import zstandard

__all__ = ["FrameEncoder", "plan_frames", "saves"]

# Levels 3 and 9 gave no better ratio on real weights.
_LEVEL = 1
# Makes all blocks raw where level 1 found little, and raw blocks decode at the speed of memcpy.
_RAW_LEVEL = -1
_MIN_SAVED_PERCENT = 3


def plan_frames(header: Header, file_size: int) -> tuple[ByteRange, ...]:
    """Decide which bytes of the file each frame holds.

    Frame 0 is exactly the header. A tensor larger than a frame begins one and is cut into frames of 4 MiB;
    smaller neighbours (and the rest of a larger one before them) share frames, each tensor whole.

    Args:
        header: parsed from the file's start.
        file_size: bytes of the file.

    Returns:
        Consecutive ranges that cover the file, none empty.

    Raises:
        FormatError: the header describes a file of another size.
    """
    if header.file_bytes != file_size:
        raise FormatError(
            "Safetensors file", f"{file_size} bytes, but its header describes {header.file_bytes}"
        )
    base = header.data_start
    frames = [ByteRange(0, base)]
    start = base  # of the frame that is being filled; it holds the bytes up to the tensor at hand
    for info in header.tensors.values():
        stop = base + info.stop
        if stop - start <= FRAME_BYTES:
            continue
        tensor_start = base + info.start
        if start < tensor_start:
            frames.append(ByteRange(start, tensor_start))
        *whole, rest = split(ByteRange(tensor_start, stop), FRAME_BYTES, align=1)
        frames.extend(whole)
        start = rest.start
    if start < file_size:
        frames.append(ByteRange(start, file_size))
    return tuple(frames)


def saves(content_bytes: int, stored_bytes: int) -> bool:
    """Tell whether a frame of this size is worth decoding: it saves at least 3%."""
    return stored_bytes * 100 <= content_bytes * (100 - _MIN_SAVED_PERCENT)


class FrameEncoder:
    """Encodes the frames of one file, in order. Not for several threads at once.

    Attributes:
        pays: whether any frame after the first saved at least 3%. The first is the header, which always
            shrinks and would alone not be worth a second copy of the file.
    """

    def __init__(self) -> None:
        self._compressor = _compressor(_LEVEL)
        self._raw_compressor = _compressor(_RAW_LEVEL)
        self._encoded_frames = 0
        self.pays = False

    def encode(self, content: bytes | bytearray | memoryview) -> bytes:
        """Return the frame, with content size and checksum, that holds content (never empty).

        The GIL is released meanwhile. The same zstd library gives the same bytes.
        """
        frame = self._compressor.compress(content)
        saved = saves(len(content), len(frame))
        if not saved:
            frame = self._raw_compressor.compress(content)
        self.pays = self.pays or (saved and self._encoded_frames > 0)
        self._encoded_frames += 1
        return frame


def _compressor(level: int) -> zstandard.ZstdCompressor:
    import zstandard

    return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
