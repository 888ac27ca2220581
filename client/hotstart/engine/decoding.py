"""Frames of twins, decoded into their place: as they are, or byte planes by way of a buffer."""

from __future__ import annotations

from hotstart.frameworks.regrouping import Merge, choose_merge
from hotstart.wire.frames import FrameDecoder
from hotstart.wire.planes import PREFIX_BYTES, check_prefix
from hotstart.wire.seek_table import FrameEntry

from .targets import TwinPlan

__all__ = ["TwinDecoder"]


class TwinDecoder:
    """Decodes frames. One per thread: it reuses its memory."""

    def __init__(self) -> None:
        self._frames = FrameDecoder()
        self._merge: Merge | None = None
        self._planes = memoryview(bytearray())

    def decode(self, twin: TwinPlan, entry: FrameEntry, stored: memoryview, destination: memoryview) -> None:
        """Decode one frame so that it fills destination exactly.

        Args:
            twin: that it is of.
            entry: which frame; one that the twin ``can_decode``.
            stored: its bytes and nothing else.
            destination: for the bytes of the file that it holds; after an error they are undefined.

        Raises:
            FormatError: the frame is malformed or damaged, or holds something else.
        """
        if twin.is_planes and entry.content.start == 0:
            content = memoryview(bytearray(PREFIX_BYTES + len(destination)))
            self._frames.decode_into(stored, content)
            destination[:] = check_prefix(content)
            return
        width = twin.width(entry)
        if width == 1:
            self._frames.decode_into(stored, destination)
            return
        if len(self._planes) < len(destination):
            self._planes = memoryview(bytearray(len(destination)))
        planes = self._planes[: len(destination)]
        self._frames.decode_into(stored, planes)
        if self._merge is None:
            self._merge = choose_merge()
        self._merge(planes, width, destination)
