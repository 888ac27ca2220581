"""Frames of twins, decoded into their place: as they are, or byte planes by way of a buffer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hotstart.frameworks.regrouping import Merge, choose_merge
from hotstart.wire.frames import FrameDecoder
from hotstart.wire.planes import PREFIX_BYTES, check_prefix
from hotstart.wire.seek_table import FrameEntry

from .targets import TwinPlan

__all__ = ["Decoders", "TwinDecoder"]


class Decoders:
    """The decoders of a transfer: as many as decode at once, however many threads receive.

    Each holds zstd's window and a frame of planes, up to 8 MiB together.
    """

    def __init__(self, most: int) -> None:
        """Begin with none; they are made as they are needed, at most so many."""
        self._turns = threading.Semaphore(most)
        self._idle: list[TwinDecoder] = []

    @contextmanager
    def borrowed(self) -> Iterator[TwinDecoder]:
        """Lend one to this thread, waiting while all are in use."""
        with self._turns:
            try:
                decoder = self._idle.pop()
            except IndexError:
                decoder = TwinDecoder()
            try:
                yield decoder
            finally:
                self._idle.append(decoder)


class TwinDecoder:
    """Decodes frames, for one thread at a time: it reuses its memory."""

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
