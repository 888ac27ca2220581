"""One file on its way to a device: which bytes are next, what its header says, and which bytes may go on.

Bytes come in chunks, each in a slot of the ring. A chunk is held while the header, which says where its bytes
go, is not whole, and with sha256 until all before it were hashed. Chunks are begun in the order of the file,
so those that others are held for are always in the ring already, and none waits for ever.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from hotstart.engine.spans import SpanSet
from hotstart.engine.targets import Target, TwinPlan
from hotstart.sources.base import Source
from hotstart.wire.errors import FormatError, IntegrityError
from hotstart.wire.manifest import File
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange, coalesce, subtract
from hotstart.wire.safetensors import LENGTH_BYTES, Header, TensorInfo, parse_header, parse_header_length

from .ring import Slot

__all__ = ["Chunk", "ChunkTarget", "Incoming"]

# As for host memory: two tensors that lie closer are asked for in one go.
_GAP_BYTES = 256 * 1024
_WHAT = "Safetensors header"


class Chunk:
    """Bytes of a file in a slot.

    Attributes:
        incoming: the file.
        slot: that they lie in.
        base: the identity offset of the slot's first byte, a border of pieces.
        ranges: that are wanted; what lies between them is undefined.
    """

    __slots__ = ("base", "incoming", "ranges", "slot")

    def __init__(self, incoming: Incoming, slot: Slot, base: int, ranges: Sequence[ByteRange]) -> None:
        self.incoming = incoming
        self.slot = slot
        self.base = base
        self.ranges = ranges

    def window(self, wanted: ByteRange) -> memoryview:
        """Return the memory of identity bytes."""
        return self.slot.memory[wanted.start - self.base : wanted.stop - self.base]


class ChunkTarget(Target):
    """Receives one chunk. All pieces that it touches fit into its slot, so that they can be checked in it."""

    def __init__(self, chunk: Chunk, twin: TwinPlan | None, on_whole: Callable[[Chunk], None]) -> None:
        super().__init__(chunk.incoming.file, twin=twin)
        self._chunk = chunk
        self._on_whole = on_whole

    def begin(self) -> list[ByteRange]:
        self._is_planned = True
        return self._plan(self._chunk.ranges)

    def window(self, wanted: ByteRange) -> memoryview:
        return self._chunk.window(wanted)

    def finish(self) -> None:
        self._on_whole(self._chunk)


class Incoming:
    """The plan and the state of one file. Used by one thread at a time.

    Attributes:
        file: that is received.
        twin: to be asked for where a source has it; None where its frames do not fit into a slot.
        mapped: the bytes of the whole file where it is mapped, and nothing is received.
        header: once it is there.
        wanted: the tensors that have bytes, by rising start, once the header is there.
        empty: those that have none.
        outstanding: chunks that were begun and not dispatched.
    """

    def __init__(
        self,
        file: File,
        choose: Callable[[Header], Sequence[TensorInfo]],
        *,
        whole: bool,
        checked: bool,
        slot_bytes: int,
        full: bool = False,
        twin: TwinPlan | None = None,
        mapped: tuple[memoryview, Header] | None = None,
    ) -> None:
        """Prepare; arguments as of ``WeightsTarget``.

        Raises:
            FormatError: the file is too short to have a header.
        """
        self.file = file
        self.twin = twin if twin is None or _fits(twin, slot_bytes) else None
        self.mapped: memoryview | None = None
        self.header: Header | None = None
        self.wanted: list[TensorInfo] = []
        self.empty: list[TensorInfo] = []
        self.outstanding = 0
        self._choose = choose
        self._whole = whole
        self._checked = checked and file.pieces is not None
        self._slot_bytes = slot_bytes
        # A chunk without frames ended within one: it would be asked for from before the next chunk's base.
        self._has_cut_frame = False
        self._data_start: int | None = None
        self._head = bytearray()
        self._head_good = SpanSet()
        self._held: list[Chunk] = []
        self._begun: list[ByteRange] = []
        self._hash = hashlib.sha256() if full else None
        self._hashed = 0
        if mapped is not None:
            self.mapped, header = mapped
            self._todo: deque[ByteRange] = deque()
            self._read_plan(header)
            return
        if file.size < LENGTH_BYTES:
            raise FormatError(_WHAT, f"{file.path} has {file.size} bytes: expected at least 8")
        if self.twin is not None:
            self._data_start = self.twin.table.entries[0].content.stop
        elif file.header_length is not None:
            self._data_start = LENGTH_BYTES + file.header_length
        first = ByteRange(0, file.size)
        if not whole:
            stop = PIECE_BYTES if self._data_start is None else self._data_start
            first = self._widened([ByteRange(0, min(stop, file.size))])[0]
        self._todo = deque(self._widened([first]))

    @property
    def is_done(self) -> bool:
        """Whether all that is wanted was dispatched."""
        return self.header is not None and not self._todo and not self.outstanding

    @property
    def is_full(self) -> bool:
        """Whether no tensor may be delivered before the sha256 of the whole was compared."""
        return self._hash is not None

    @property
    def has_more(self) -> bool:
        """Whether a chunk can be begun now."""
        return bool(self._todo)

    def twin_at(self, source: Source) -> TwinPlan | None:
        """Return the twin to ask a source for in the next chunk, or None where identity is asked for."""
        twin = self.twin
        if twin is None or self._has_cut_frame or not source.has(twin.representation):
            return None
        return twin

    def next_ranges(self, *, frames: bool) -> tuple[int, list[ByteRange]]:
        """Return the base of the next chunk and what is wanted in it.

        Args:
            frames: they are going to be received as frames, which are not cut.
        """
        base = self._todo[0].start // PIECE_BYTES * PIECE_BYTES
        limit = base + self._slot_bytes
        taken: list[ByteRange] = []
        while self._todo and self._todo[0].start < limit:
            wanted = self._todo[0]
            if wanted.stop <= limit:
                if frames and _piece_border(wanted.stop) > limit:
                    break
                taken.append(self._todo.popleft())
                if frames and wanted.start == 0 and self.twin is not None and self.twin.is_planes:
                    # The header alone, since the other frames are decoded by it.
                    break
            elif frames:
                break
            else:
                self._has_cut_frame = True
                taken.append(ByteRange(wanted.start, limit))
                self._todo[0] = ByteRange(limit, wanted.stop)
        ranges = coalesce(taken)
        self._begun += ranges
        self.outstanding += 1
        return base, ranges

    def learn(self, chunk: Chunk) -> bool:
        """Let the twin know the header as soon as it is there, by any worker; tell whether this was it.

        Raises:
            FormatError: the header is malformed, or not that of the twin's frames.
        """
        twin = self.twin
        if twin is None or not twin.is_planes or chunk.ranges[0].start > 0:
            return False
        view = chunk.window(chunk.ranges[0])
        length = parse_header_length(view[:LENGTH_BYTES])
        # It fits into a slot, or the twin would not be asked for.
        twin.learn(parse_header(view[LENGTH_BYTES : LENGTH_BYTES + length], self.file.size))
        return True

    def take_in(self, chunk: Chunk) -> list[Chunk]:
        """Note that a chunk is whole and good; return those that may go on to the device.

        Raises:
            FormatError: the header is malformed.
            IntegrityError: this was the last chunk, and the sha256 is not the published one.
            HotstartError: what choosing raises.
        """
        self._held.append(chunk)
        self._held.sort(key=lambda held: held.base)
        if self.header is None:
            self._read_head()
        if self._data_start is None:
            return []
        released: list[Chunk] = []
        for held in list(self._held):
            if self._hash is not None:
                if held.ranges[0].start != self._hashed:
                    break
                if not self._is_ready(held):
                    break
                for part in held.ranges:
                    self._hash.update(held.window(part))
                self._hashed = held.ranges[-1].stop
            elif not self._is_ready(held):
                continue
            self._held.remove(held)
            released.append(held)
        if self._hash is not None and self._hashed == self.file.size:
            self._check_sha256()
        return released

    def overlapping(self, part: ByteRange) -> tuple[int, list[TensorInfo]]:
        """Return the wanted tensors that have bytes in a part of the file, and the index of the first."""
        assert self._data_start is not None
        start, stop = part.start - self._data_start, part.stop - self._data_start
        first = bisect_left(self.wanted, start + 1, key=lambda info: info.stop)
        after = bisect_left(self.wanted, stop, key=lambda info: info.start)
        return first, self.wanted[first:after]

    def place(self, info: TensorInfo) -> ByteRange:
        """Return where a tensor lies in the file."""
        assert self._data_start is not None
        return ByteRange(self._data_start + info.start, self._data_start + info.stop)

    def _is_ready(self, chunk: Chunk) -> bool:
        """Tell whether it is known where the bytes of a chunk go; those of the header go nowhere."""
        assert self._data_start is not None
        return self.header is not None or chunk.ranges[-1].stop <= self._data_start

    def _read_head(self) -> None:
        """Get on with the header as far as the chunks at hand allow."""
        if self._data_start is None:
            first = self._held[0]
            if first.ranges[0].start > 0:
                return
            self._data_start = LENGTH_BYTES + self._read_length(first)
            missing = subtract(ByteRange(0, self._data_start), self._begun)
            # Only where not the whole file is asked for anyway.
            if not self._whole:
                self._todo.extend(missing)
        if not self._head:
            self._head = bytearray(self._data_start)
        for chunk in self._held:
            for part in chunk.ranges:
                good = part.intersection(ByteRange(0, self._data_start))
                if len(good) and not self._head_good.covers(good):
                    self._head[good.start : good.stop] = chunk.window(good)
                    self._head_good.add(good)
        if self._head_good.covers(ByteRange(0, self._data_start)):
            self._read_plan(self._parse())
            self._head = bytearray()

    def _read_length(self, first: Chunk) -> int:
        length = parse_header_length(first.window(ByteRange(0, LENGTH_BYTES)))
        if LENGTH_BYTES + length > self.file.size:
            raise FormatError(
                _WHAT, f"claims {length} bytes, but {self.file.path} has {self.file.size}: truncated"
            )
        return length

    def _parse(self) -> Header:
        assert self._data_start is not None
        length = parse_header_length(self._head[:LENGTH_BYTES])
        if LENGTH_BYTES + length != self._data_start:
            raise FormatError(
                _WHAT,
                f"of {self.file.path} claims {length} bytes: the manifest says "
                f"{self._data_start - LENGTH_BYTES}",
            )
        return parse_header(self._head[LENGTH_BYTES:], self.file.size)

    def _read_plan(self, header: Header) -> None:
        """Learn from the header which tensors are wanted, and which bytes of them are not on their way."""
        self.header = header
        self._data_start = header.data_start
        chosen = self._choose(header)
        self.empty = [info for info in chosen if info.start == info.stop]
        self.wanted = sorted((info for info in chosen if info.start < info.stop), key=lambda info: info.start)
        if self._whole and self.mapped is None:
            return
        fetched = self._widened(self.place(info) for info in self.wanted)
        self._todo = deque(part for whole in fetched for part in subtract(whole, self._begun))

    def _widened(self, ranges: Iterable[ByteRange]) -> list[ByteRange]:
        """Return what is asked for so that these ranges can be had: whole frames, or whole pieces."""
        if self.mapped is not None:
            return coalesce(ranges)
        if self.twin is not None:
            frames: list[ByteRange] = []
            for whole in coalesce(ranges):
                for entry in self.twin.table.frames_for(whole):
                    if not frames or entry.content.start >= frames[-1].stop:
                        frames.append(entry.content)
            return frames
        if self._checked:
            return coalesce(
                ByteRange(
                    part.start // PIECE_BYTES * PIECE_BYTES, min(_piece_border(part.stop), self.file.size)
                )
                for part in ranges
            )
        return coalesce(ranges, _GAP_BYTES)

    def _check_sha256(self) -> None:
        assert self._hash is not None
        assert self.file.sha256 is not None
        found = self._hash.hexdigest()
        if found != self.file.sha256:
            raise IntegrityError(self.file.path, f"sha256 {self.file.sha256}", found)


def _piece_border(offset: int) -> int:
    return -(-offset // PIECE_BYTES) * PIECE_BYTES


def _fits(twin: TwinPlan, slot_bytes: int) -> bool:
    """Tell whether each frame, with the pieces that it touches, fits into a slot."""
    return all(
        _piece_border(entry.content.stop) - entry.content.start // PIECE_BYTES * PIECE_BYTES <= slot_bytes
        for entry in twin.table.entries
    )
