"""The target of a Safetensors file: reads its header on the way, and tells tensors when they are good."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from hotstart.buffers import PAGE_BYTES, HostBuffer
from hotstart.wire.errors import FormatError, IntegrityError
from hotstart.wire.manifest import File
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange, coalesce
from hotstart.wire.safetensors import LENGTH_BYTES, Header, TensorInfo, parse_header, parse_header_length

from .planning import ITEM_BYTES, cut_frames, gaps, whole_pieces
from .targets import Target, TwinPlan

__all__ = ["Allocate", "TensorReady", "WeightsTarget", "check_sha256"]

# The first request for a file whose header's length nobody knows: most headers are far shorter.
_HEAD_BYTES = PIECE_BYTES
# Two tensors that lie closer are asked for in one go: a request costs more than these bytes.
_GAP_BYTES = 256 * 1024

# Gives memory of a size in bytes: where tensors land.
Allocate: TypeAlias = Callable[[int], HostBuffer]


class TensorReady(NamedTuple):
    """A tensor whose bytes are all there and good.

    Attributes:
        path: of its file.
        info: what it is.
        data: its bytes, writeable; keeps the memory alive.
        staged: the tensor itself, where a device made it; then there are no bytes here.
    """

    path: str
    info: TensorInfo
    data: memoryview
    staged: Any = None


class _Region:
    """Contiguous memory for a run of a file, so laid out that the data section begins on a page."""

    def __init__(self, span: ByteRange, data_start: int, allocate: Allocate) -> None:
        lead = (span.start - data_start) % PAGE_BYTES
        self.span = span
        self._shift = lead - span.start
        self._buffer = allocate(lead + len(span))

    def window(self, wanted: ByteRange) -> memoryview:
        return self._buffer.view[wanted.start + self._shift : wanted.stop + self._shift]

    def discard(self, unwanted: ByteRange) -> None:
        self._buffer.discard(unwanted.start + self._shift, unwanted.stop + self._shift)


class WeightsTarget(Target):
    """A Safetensors file of which all or some tensors are wanted.

    All of it is one region of memory. Some tensors are a region each, or one for neighbours, with room for
    the whole pieces and frames that they are checked in; what lies around them is given back at once.
    """

    def __init__(
        self,
        file: File,
        choose: Callable[[Header], Sequence[TensorInfo]],
        deliver: Callable[[TensorReady], None],
        *,
        whole: bool,
        checked: bool,
        full: bool = False,
        twin: TwinPlan | None = None,
        header: Header | None = None,
        longest: int = ITEM_BYTES,
        allocate: Allocate = HostBuffer,
    ) -> None:
        """Prepare; no memory is taken yet.

        Args:
            file: what is received.
            choose: is given the header and returns the wanted tensors; what it raises ends the transfer.
            deliver: is given every wanted tensor, in the order in which they become good; must not block.
            whole: all tensors are wanted, so that the plan need not wait for the header.
            checked: pieces are going to be checked, so whole ones are asked for from the start.
            full: compare the sha256 of the whole before any tensor is delivered; only with whole.
            twin: to be asked for instead of identity.
            longest: bytes of a request.
            header: where it is known already, which needs no bytes then; only without whole.
            allocate: gives the memory of tensors.
        """
        super().__init__(file, twin=twin)
        self.item_bytes = longest
        self._choose = choose
        self._deliver = deliver
        self._allocate = allocate
        self._whole = whole
        self._checked = checked and self.can_check()
        self._full = full
        self._data_start: int | None = None
        if header is not None:
            self._data_start = header.data_start
            if twin is not None:
                twin.learn(header)
        elif twin is not None:
            self._data_start = twin.table.entries[0].content.stop
        elif file.header_length is not None:
            self._data_start = LENGTH_BYTES + file.header_length
        self._header = header
        self._head = ByteRange(0, 0)
        self._regions: list[_Region] = []
        self._wanted: list[TensorInfo] = []
        self._starts: list[int] = []
        self._is_delivered = bytearray()
        self._spare: list[ByteRange] = []

    @property
    def header(self) -> Header:
        """The parsed header, once it is there."""
        assert self._header is not None
        return self._header

    @property
    def is_eager(self) -> bool:  # type: ignore[override]
        """Whether the plan waits for the header, of which not even the length is known."""
        return self._data_start is None

    def can_change_over(self, twin: TwinPlan | None, left: Sequence[ByteRange]) -> bool:
        if twin is None or not twin.is_planes or self._header is not None:
            return True
        # Frame 0 holds the header. Whoever is receiving it as something else might never get it whole.
        return any(part.start == 0 for part in left)

    def prepare(self, twin: TwinPlan) -> None:
        if self._header is not None:
            twin.learn(self._header)

    def begin(self) -> list[ByteRange]:
        if self._header is not None:
            self._choose_from(self._header)
            return self._plan(self._plan_tensors())
        if self.file.size < LENGTH_BYTES:
            raise FormatError(
                "Safetensors header", f"{self.file.path} has {self.file.size} bytes: expected at least 8"
            )
        everything = ByteRange(0, self.file.size)
        if self._whole and self._data_start is not None:
            self._regions = [_Region(everything, self._data_start, self._allocate)]
            self._is_planned = True
            return self._plan([everything])
        self._head = self._first_range().intersection(everything)
        self._regions = [_Region(whole_pieces([self._head], self.file.size)[0], 0, HostBuffer)]
        return self._plan([self._head])

    def _first_range(self) -> ByteRange:
        if self._data_start is None:
            # A small file comes whole: another round trip costs more than its bytes.
            is_small = self._whole and self.file.size <= self.item_bytes
            return ByteRange(0, self.file.size if is_small else _HEAD_BYTES)
        head = ByteRange(0, self._data_start)
        if self._checked and self.twin is None:
            return whole_pieces([head], self.file.size)[0]
        return head

    def window(self, wanted: ByteRange) -> memoryview:
        regions = self._regions
        index = bisect_right(regions, wanted.start, key=lambda region: region.span.start) - 1
        return regions[index].window(wanted)

    def on_good(self, settled: ByteRange, merged: ByteRange) -> list[ByteRange]:
        more: list[ByteRange] = []
        if self._header is None:
            more = self._read_head(merged)
            if self._header is None:
                return more
            # What became good before the header did.
            for run in self._good.ranges():
                self._tell(run, run)
        else:
            self._tell(settled, merged)
        return more

    def _read_head(self, merged: ByteRange) -> list[ByteRange]:
        """Get on with the header as far as the good bytes allow; return further ranges to ask for."""
        if not self._good.covers(ByteRange(0, LENGTH_BYTES)):
            return []
        more: list[ByteRange] = []
        if self._data_start is None:
            more = self._learn_length()
        assert self._data_start is not None
        # Some tensors' regions replace the head's, which nobody may be receiving into any more then.
        needed = self._data_start if self._whole else max(self._data_start, self._head.stop)
        if not self._good.covers(ByteRange(0, needed)):
            return more
        self._header = self._parse()
        if self.twin is not None:
            self.twin.learn(self._header)
        self._choose_from(self._header)
        return more if self._whole else self._plan_tensors()

    def _choose_from(self, header: Header) -> None:
        self._wanted = sorted(self._choose(header), key=lambda info: info.start)
        self._starts = [info.start for info in self._wanted]
        self._is_delivered = bytearray(len(self._wanted))

    def _learn_length(self) -> list[ByteRange]:
        length = parse_header_length(self.window(ByteRange(0, LENGTH_BYTES)))
        data_start = LENGTH_BYTES + length
        if data_start > self.file.size:
            raise FormatError(
                "Safetensors header",
                f"claims {length} bytes, but {self.file.path} has {self.file.size}: truncated",
            )
        self._data_start = data_start
        if self._whole:
            self._move_head(_Region(ByteRange(0, self.file.size), data_start, self._allocate))
            self._is_planned = True
            return self._missing([ByteRange(0, self.file.size)])
        if data_start > self._head.stop:
            self._head = ByteRange(0, data_start)
            self._move_head(_Region(whole_pieces([self._head], self.file.size)[0], 0, HostBuffer))
        return self._missing([self._head])

    def _move_head(self, region: _Region) -> None:
        # The worker that receives the head is the one that called, and it asks for its window again.
        old, self._regions = self._regions[0], [region]
        for run in self._good.ranges():
            region.window(run)[:] = old.window(run)

    def _parse(self) -> Header:
        assert self._data_start is not None
        length = parse_header_length(self.window(ByteRange(0, LENGTH_BYTES)))
        if LENGTH_BYTES + length != self._data_start:
            raise FormatError(
                "Safetensors header",
                f"of {self.file.path} claims {length} bytes: the manifest says "
                f"{self._data_start - LENGTH_BYTES}",
            )
        return parse_header(self.window(ByteRange(LENGTH_BYTES, self._data_start)), self.file.size)

    def _plan_tensors(self) -> list[ByteRange]:
        """Lay out regions for the wanted tensors and return what must be asked for."""
        wanted = coalesce(self._place(info) for info in self._wanted)
        if self.twin is not None:
            fetched = cut_frames(self.twin.table, wanted)
        elif self._checked:
            fetched = whole_pieces(wanted, self.file.size)
        else:
            fetched = coalesce(wanted, _GAP_BYTES)
        heads = self._regions
        spans = whole_pieces(fetched, self.file.size)
        self._regions = [_Region(span, self.header.data_start, self._allocate) for span in spans]
        for head in heads:
            for region in self._regions:
                for run in self._good.ranges():
                    shared = run.intersection(region.span)
                    if len(shared):
                        region.window(shared)[:] = head.window(shared)
        self._spare = gaps(spans, wanted)
        self._is_planned = True
        return self._missing(fetched)

    def _place(self, info: TensorInfo) -> ByteRange:
        return ByteRange(self.header.data_start + info.start, self.header.data_start + info.stop)

    def _tell(self, settled: ByteRange, merged: ByteRange) -> None:
        """Deliver the tensors that settled completes; merged is the run of good bytes around it."""
        if self._full:
            return
        data_start = self.header.data_start
        first = bisect_right(self._starts, settled.start - data_start)
        # The tensor that begins before settled may end in it, and so may empty ones at the same offset.
        while first > 0 and self._wanted[first - 1].stop >= settled.start - data_start:
            first -= 1
        after = bisect_left(self._starts, settled.stop - data_start)
        while after < len(self._starts) and self._starts[after] <= settled.stop - data_start:
            after += 1
        for index in range(first, after):
            place = self._place(self._wanted[index])
            if not self._is_delivered[index] and merged.start <= place.start and place.stop <= merged.stop:
                self._hand_over(index)
        self._give_back(merged)

    def _hand_over(self, index: int) -> None:
        self._is_delivered[index] = 1
        info = self._wanted[index]
        data = self.window(self._place(info)) if info.stop > info.start else memoryview(bytearray())
        self._deliver(TensorReady(self.file.path, info, data))

    def _give_back(self, merged: ByteRange) -> None:
        while True:
            index = bisect_left(self._spare, merged.start, key=lambda spare: spare.start)
            if index == len(self._spare) or self._spare[index].stop > merged.stop:
                return
            spare = self._spare.pop(index)
            region = bisect_right(self._regions, spare.start, key=lambda region: region.span.start) - 1
            self._regions[region].discard(spare)

    def finish(self) -> None:
        if self._full:
            assert self.file.sha256 is not None
            check_sha256(self.window(ByteRange(0, self.file.size)), self.file.sha256, self.file.path)
        for index in range(len(self._wanted)):
            # Empty tensors that lie beside nothing that was asked for; with full, all of them.
            if not self._is_delivered[index]:
                self._hand_over(index)


def check_sha256(data: memoryview, expected: str, what: str) -> None:
    """Compare the sha256 of a whole file; the GIL is released meanwhile.

    Raises:
        IntegrityError: they differ.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise IntegrityError(what, f"sha256 {expected}", found)
