"""Targets: where the bytes of one file go, which of them have arrived, and which are good.

All offsets are identity offsets, so that a plan outlives the source and the representation it began with.
A byte is *planned* once a request for it exists, *received* when it lies in its place, and *good* when it has
passed all checks that it must. Each planned byte belongs to one request; so no two workers write one byte.

Lock order: a target's lock is innermost; nothing is called under it that takes another.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hotstart.sources.base import Source
from hotstart.wire.manifest import File, Representation, Twin
from hotstart.wire.pieces import piece_range, pieces_of
from hotstart.wire.planes import frame_widths, identity_table
from hotstart.wire.ranges import ByteRange, coalesce, subtract
from hotstart.wire.safetensors import Header
from hotstart.wire.seek_table import FrameEntry, SeekTable
from hotstart.wire.twin_forms import PLANES_SUFFIX

from .planning import ITEM_BYTES, Compression, cut, cut_frames, frames_within, whole_pieces
from .spans import SpanSet

__all__ = ["Settled", "Target", "TwinPlan", "WholeTarget", "choose_twin"]


class TwinPlan:
    """A twin and where its frames lie.

    Attributes:
        representation: what is asked for.
        table: of its frames, with contents counted in bytes of the file, whatever the form.
        name: ``"zstd"`` or ``"planes"``, for reports.
        is_planes: frames hold byte planes. How wide their elements are is known once the header is.
    """

    def __init__(self, file: File, twin: Twin) -> None:
        """Check a twin's seek table.

        Raises:
            FormatError: it is malformed, or does not fit the file.
        """
        representation = file.twin(twin.suffix)
        assert representation is not None
        self.representation = representation
        self.is_planes = twin.suffix == PLANES_SUFFIX
        self.name = "planes" if self.is_planes else "zstd"
        table = SeekTable.parse(twin.seek_table)
        self.table = identity_table(table) if self.is_planes else table
        self.table.check_sizes(file.size, representation.size - len(twin.seek_table))
        self._widths: tuple[int, ...] = ()

    @classmethod
    def of(cls, file: File, suffix: str) -> TwinPlan | None:
        """Return the plan of a file's twin of this suffix, or None where it has none (errors as above)."""
        return next((cls(file, twin) for twin in file.twins if twin.suffix == suffix), None)

    def learn(self, header: Header) -> None:
        """Take from the file's header what frames with planes do not say themselves.

        Raises:
            FormatError: the frames are not those of planes of this file.
        """
        if self.is_planes:
            self._widths = frame_widths(header, self.table)

    def can_decode(self, entry: FrameEntry) -> bool:
        """Tell whether all is known that decoding the frame takes; false of planes before ``learn``."""
        return not self.is_planes or bool(self._widths) or entry.content.start == 0

    def width(self, entry: FrameEntry) -> int:
        """Return the bytes of an element in a frame that can be decoded; 1 where nothing is regrouped."""
        return self._widths[self.table.indices_for(entry.content).start] if self._widths else 1


def choose_twin(file: File, source: Source, compression: Compression) -> TwinPlan | None:
    """Return the twin of a file to ask source for, or None where identity is asked for.

    Raises:
        FormatError: its seek table is malformed, or does not fit the file.
    """
    for suffix in compression.suffixes(source.kind, is_local=source.is_local):
        twin = TwinPlan.of(file, suffix)
        if twin is None or not source.has(twin.representation):
            continue
        if compression is not Compression.AUTO or source.holds(twin.representation):
            return twin
    return None


class Settled(NamedTuple):
    """What follows from bytes that became good.

    Attributes:
        requests: further ranges to ask for.
        pieces: that are whole now though other sources gave parts of them, and that the caller must check.
        is_done: these were the last bytes that the target waited for; true once.
    """

    requests: list[ByteRange]
    pieces: list[int]
    is_done: bool


class Target(ABC):
    """One file on its way. Methods may be called from any worker.

    Attributes:
        file: what is received.
        identity: the representation that is the file itself.
        twin: the twin that is asked for instead; None once, or if from the start, identity is.
    """

    item_bytes: int = ITEM_BYTES
    """The longest request, in identity bytes."""
    is_eager = False
    """Bytes are wanted as they arrive, not only in whole pieces: the plan waits for them."""

    def __init__(self, file: File, *, twin: TwinPlan | None = None) -> None:
        self.file = file
        self.identity = file.identity()
        self.twin = twin
        self._lock = threading.Lock()
        self._planned = SpanSet()
        self._received = SpanSet()
        self._good = SpanSet()
        self._claimed_pieces: set[int] = set()
        self._is_planned = False
        self._is_done = False

    @property
    def is_buffered(self) -> bool:
        """Whether bytes pass through memory of the worker on their way."""
        return self.twin is not None

    @property
    def representation(self) -> Representation:
        """What is asked for now."""
        return self.identity if self.twin is None else self.twin.representation

    @abstractmethod
    def begin(self) -> list[ByteRange]:
        """Return the first requests' ranges; called once."""

    @abstractmethod
    def window(self, wanted: ByteRange) -> memoryview:
        """Return the memory in which these bytes belong.

        Args:
            wanted: within one request, or one whole piece that is planned.
        """

    def on_good(self, settled: ByteRange, merged: ByteRange) -> list[ByteRange]:
        """Make use of bytes that became good; return further ranges to request. Called under the lock.

        Args:
            settled: what became good.
            merged: the run of good bytes that it is part of.
        """
        return []

    def finish(self) -> None:  # noqa: B027 - most targets have nothing left to do
        """Do what is left when all planned bytes are good; called once, by one worker, without the lock."""

    def can_check(self) -> bool:
        """Tell whether the manifest says what the pieces of the file must be."""
        return self.file.pieces is not None

    def received(self, arrived: ByteRange) -> list[int]:
        """Note bytes that are to be checked; return the pieces that are whole now, for the caller to."""
        with self._lock:
            self._received.add(arrived)
            return self._claim(arrived)

    def _claim(self, changed: ByteRange) -> list[int]:
        """Return the pieces in changed that are whole but not good, each once."""
        claimed = []
        for piece in pieces_of(changed):
            place = piece_range(piece, self.file.size)
            if piece in self._claimed_pieces or not self._received.covers(place) or self._good.covers(place):
                continue
            self._claimed_pieces.add(piece)
            claimed.append(piece)
        return claimed

    def settle(self, good: ByteRange) -> Settled:
        """Note bytes that are good."""
        with self._lock:
            self._received.add(good)
            merged = self._good.add(good)
            requests = self._plan(self.on_good(good, merged))
            return Settled(requests, self._claim(good), self._check_done())

    def widen(self) -> list[ByteRange]:
        """Plan the rest of every piece of which a part is still on its way, since pieces are checked whole.

        Needed where a source that is checked takes over from one that was not, or identity from a twin.
        """
        with self._lock:
            planned = self._planned.ranges()
            good = self._good.ranges()
            open_parts = [part for whole in planned for part in subtract(whole, good)]
            wide = whole_pieces(open_parts, self.file.size)
            return self._plan([part for whole in wide for part in subtract(whole, planned)])

    def switch_to_identity(self) -> None:
        """Go on without the twin; requests that were cut along its frames stay as they are."""
        self.twin = None

    def change_over(
        self, twin: TwinPlan | None, left: Sequence[ByteRange]
    ) -> tuple[list[ByteRange], list[ByteRange]]:
        """Go on with another representation, for what is left, cut anew.

        Args:
            twin: to be asked for from now on; None for identity.
            left: ranges that are planned, and that no worker has begun to receive.

        Returns:
            Ranges to be asked for as that, and ranges that are to be identity whatever is asked for: they
            belong to frames of which other parts are on their way already.
        """
        with self._lock:
            self.twin = twin
            if twin is None:
                return cut(left, self.item_bytes), []
            self.prepare(twin)
            framed = frames_within(twin.table, left)
            edges = [part for whole in coalesce(left) for part in subtract(whole, framed)]
            return cut_frames(twin.table, framed), cut(edges, self.item_bytes)

    def can_change_over(self, twin: TwinPlan | None, left: Sequence[ByteRange]) -> bool:
        """Tell whether what decoding a twin takes is known, or comes with what is left."""
        return True

    def prepare(self, twin: TwinPlan) -> None:  # noqa: B027 - most targets know nothing that a twin needs
        """Tell a twin what is known of the file already. Called under the lock."""

    def _plan(self, ranges: Iterable[ByteRange]) -> list[ByteRange]:
        requests = cut(ranges, self.item_bytes) if self.twin is None else cut_frames(self.twin.table, ranges)
        for request in requests:
            self._planned.add(request)
        return requests

    def _missing(self, wanted: Iterable[ByteRange]) -> list[ByteRange]:
        """Return the parts of wanted that nobody has requested yet."""
        planned = self._planned.ranges()
        return [part for whole in wanted for part in subtract(whole, planned)]

    def _check_done(self) -> bool:
        if self._is_done or not self._is_planned or len(self._good) < len(self._planned):
            return False
        self._is_done = True
        return True


class WholeTarget(Target):
    """A file whose bytes are all wanted, in memory, and looked at by nobody on the way: a tokenizer."""

    def __init__(self, file: File) -> None:
        super().__init__(file)
        self.data = bytearray(file.size)
        self._view = memoryview(self.data)

    def begin(self) -> list[ByteRange]:
        self._is_planned = True
        return self._plan([ByteRange(0, self.file.size)])

    def window(self, wanted: ByteRange) -> memoryview:
        return self._view[wanted.start : wanted.stop]
