"""How a Safetensors file is cut into frames and encoded: zstd-framed Safetensors, format 1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .frames import FRAME_BYTES
from .ranges import ByteRange, split
from .safetensors import Header, TensorInfo

if TYPE_CHECKING:
    import zstandard

__all__ = ["FrameEncoder", "cut_neighbours", "plan_frames", "saves"]

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
    header.check_file_size(file_size)
    return (ByteRange(0, header.data_start), *cut_neighbours(header.tensors.values(), header.data_start))


def cut_neighbours(tensors: Iterable[TensorInfo], data_start: int) -> list[ByteRange]:
    """Cut tensors that follow each other in a file without holes into frames (see ``plan_frames``)."""
    frames: list[ByteRange] = []
    start = reached = None  # of the frame that is being filled; it holds the bytes up to the tensor at hand
    for info in tensors:
        tensor_start, reached = data_start + info.start, data_start + info.stop
        if start is None:
            start = tensor_start
        if reached - start <= FRAME_BYTES:
            continue
        if start < tensor_start:
            frames.append(ByteRange(start, tensor_start))
        *whole, rest = split(ByteRange(tensor_start, reached), FRAME_BYTES, align=1)
        frames.extend(whole)
        start = rest.start
    if start is not None and reached is not None and start < reached:
        frames.append(ByteRange(start, reached))
    return frames


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
