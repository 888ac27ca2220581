"""A worker: one thread with a connection of its own, which receives, decodes and checks.

What is asked for again, and of whom:

* the source broke, and says that asking again may help: the same source a few times, after a pause that
  grows; any progress starts the count anew. Then it is given up for all workers, and the next one goes on
  from the very byte.
* the source says that asking again does not help: given up at once.
* a piece or a frame is damaged: once more from the same source, then that is given up. When none is left, the
  error is the damage.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Iterable

from hotstart.sources.base import AllSourcesFailed, Body, Session, Source, SourceError
from hotstart.wire.errors import FormatError, IntegrityError
from hotstart.wire.manifest import Representation
from hotstart.wire.pieces import PIECE_BYTES, piece_range
from hotstart.wire.ranges import ByteRange
from hotstart.wire.seek_table import FrameEntry

from .targets import Target, TwinPlan
from .transfer import Request, Transfer, TransferAborted

__all__ = ["Worker"]

# Without progress. With the pauses below this is about a second, as long as a load balancer needs to notice.
_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


class Worker:
    """One thread of a transfer."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._source: Source | None = None
        self._session: Session | None = None
        # Reused from frame to frame: what of a frame has arrived, and which frame that is.
        self._frame = bytearray()
        self._frame_of = ("", 0)
        self._frame_filled = 0
        self._to_mend: list[tuple[Target, int]] = []
        self._damage: IntegrityError | None = None

    def run(self) -> None:
        """Work until there is nothing left."""
        transfer = self._transfer
        try:
            while (request := transfer.next_request()) is not None:
                self._perform(request)
                transfer.let_go(request)
                # Only from here on can nobody take it any more, and close the session of the next request.
                if request.is_taken:
                    self._leave()
                self._mend_all()
        except TransferAborted:
            pass
        except BaseException as error:  # noqa: BLE001 - a thread's end: whoever waits gets it
            transfer.fail(error)
        finally:
            self._leave()

    # Which source.

    def _perform(self, request: Request) -> None:
        """Receive all of a request, from whatever source it takes, unless another worker takes it away."""
        tries = 0
        while request.position < request.stop:
            self._transfer.check_running()
            source = self._enter(request.target)
            # In this order: whoever takes it marks it first, and closes the session that it finds then.
            request.session = self._session
            if request.is_taken:
                break
            before = (request.position, self._frame_filled)
            try:
                self._receive(request, source)
            except SourceError as error:
                self._transfer.check_running()
                request.waits_since = None
                if request.is_taken:
                    break
                has_progressed = (request.position, self._frame_filled) != before
                tries = self._cope(source, error, 1 if has_progressed else tries + 1)
            except _DamagedFrame as damaged:
                self._damage = damaged.error
                has_progressed = request.position != before[0]
                # Two of these are as bad as four connections lost.
                tries = (0 if has_progressed else tries) + _ATTEMPTS // 2
                tries = self._cope(source, _as_source_error(source, request.target, damaged.error), tries)

    def _enter(self, target: Target) -> Source:
        """Return the nearest source, with a session at hand."""
        try:
            source = self._transfer.chain.current(target.identity)
        except AllSourcesFailed as error:
            if self._damage is not None:
                raise self._damage from error
            raise
        if target.twin is not None and not source.has(target.twin.representation):
            target.switch_to_identity()
            self._transfer.wake()
        if source is not self._source:
            self._leave()
            self._session = self._transfer.open_session(source)
            self._source = source
        return source

    def _leave(self) -> None:
        session, self._session, self._source = self._session, None, None
        if session is not None:
            self._transfer.close_session(session)

    def _cope(self, source: Source, error: SourceError, tries: int) -> int:
        """Pause before the same source is asked again, or give it up; return how often it was tried."""
        if not error.transient or tries >= _ATTEMPTS:
            self._transfer.chain.give_up(source, error)
            return 0
        self._transfer.note_retry(str(error))
        pause = min(_FIRST_PAUSE_SECONDS * 2 ** (tries - 1), _LONGEST_PAUSE_SECONDS)
        # Jitter, since all workers of all clients lose a source at the same moment.
        pause *= random.uniform(0.5, 1.5)  # noqa: S311 - not for secrets
        asked = min(error.retry_after_seconds or 0.0, _LONGEST_PAUSE_SECONDS)
        self._transfer.pause(max(pause, asked))
        return tries

    # Receiving.

    def _receive(self, request: Request, source: Source) -> None:
        twin = request.twin
        if not request.quiet:
            self._transfer.note_form(twin)
        if twin is None:
            self._receive_identity(request, source)
        else:
            self._receive_frames(request, source, twin)

    def _receive_identity(self, request: Request, source: Source) -> None:
        target = request.target
        checked = target.can_check() and self._transfer.verification.checks_pieces(source.kind)
        if checked and not request.quiet:
            self._transfer.add(target, target.widen())
        reported = request.position
        try:
            with self._fetch(request, target.identity, ByteRange(reported, request.stop)) as body:
                while request.position < request.stop:
                    border = min((request.position // PIECE_BYTES + 1) * PIECE_BYTES, request.stop)
                    window = target.window(ByteRange(request.position, border))
                    request.position += self._read(request, body, window, source)
                    if request.position == border or target.is_eager:
                        self._report(request, ByteRange(reported, request.position), source, checked=checked)
                        reported = request.position
        except SourceError:
            if request.position > reported:
                self._report(request, ByteRange(reported, request.position), source, checked=checked)
            raise

    def _receive_frames(self, request: Request, source: Source, twin: TwinPlan) -> None:
        entries = twin.table.frames_for(ByteRange(request.position, request.stop))
        self._hold(twin.representation.id, entries[0])
        start = entries[0].stored.start + self._frame_filled
        stop = entries[-1].stored.stop
        if start == stop:
            # The source broke after its last byte.
            if self._can_decode(request, entries[0], twin):
                self._decode(request, entries[0], twin)
            return
        with self._fetch(request, twin.representation, ByteRange(start, stop)) as body:
            for entry in entries:
                self._hold(twin.representation.id, entry)
                stored = memoryview(self._frame)[: len(entry.stored)]
                while self._frame_filled < len(stored):
                    count = self._read(request, body, stored[self._frame_filled :], source)
                    self._frame_filled += count
                    self._transfer.chain.count(source, count)
                if not self._can_decode(request, entry, twin):
                    return
                self._decode(request, entry, twin)

    def _fetch(self, request: Request, representation: Representation, wanted: ByteRange) -> Body:
        assert self._session is not None
        request.waits_since = time.perf_counter()
        body = self._session.fetch(request.target.file, representation, wanted)
        self._transfer.arrived(request)
        return body

    def _read(self, request: Request, body: Body, window: memoryview, source: Source) -> int:
        request.waits_since = time.perf_counter()
        count = body.readinto(window)
        if not count:
            raise SourceError(source.name, "receiving", "the body ended early", transient=True)
        self._transfer.arrived(request, count)
        return count

    def _report(self, request: Request, arrived: ByteRange, source: Source, *, checked: bool) -> None:
        """Note identity bytes that have arrived, checking the pieces that they complete."""
        target = request.target
        self._transfer.chain.count(source, len(arrived))
        if request.quiet:
            return
        if checked:
            self._check(target, target.received(arrived))
        else:
            self._settle(target, arrived)

    def _settle(self, target: Target, good: ByteRange) -> None:
        self._check(target, self._transfer.settle(target, good))

    def _check(self, target: Target, whole_pieces: Iterable[int]) -> None:
        """Settle pieces that have arrived, if they are what was published."""
        pieces = target.file.pieces
        for piece in whole_pieces:
            assert pieces is not None
            place = piece_range(piece, target.file.size)
            if zlib.crc32(target.window(place)) == pieces.crc32[piece]:
                self._transfer.settle(target, place)
            else:
                # Not mended here: the connection is in the middle of a body.
                self._to_mend.append((target, piece))

    def _mend_all(self) -> None:
        while self._to_mend:
            self._mend(*self._to_mend.pop())

    def _mend(self, target: Target, piece: int) -> None:
        """Receive a damaged piece again until it is sound."""
        place = piece_range(piece, target.file.size)
        pieces = target.file.pieces
        assert pieces is not None
        seen_from: Source | None = None
        while True:
            try:
                pieces.check(piece, target.window(place), target.file.path)
            except IntegrityError as error:
                self._damage = error
                source = self._enter(target)
                if source is seen_from:
                    self._transfer.chain.give_up(source, _as_source_error(source, target, error))
                    source = self._enter(target)
                else:
                    self._transfer.note_retry(f"{source.name}: {error}")
                seen_from = source
                self._perform(Request(target, place, quiet=True))
            else:
                self._damage = None
                self._transfer.settle(target, place)
                return

    # Frames.

    def _hold(self, representation_id: str, entry: FrameEntry) -> None:
        """Make room for a frame, keeping what has arrived of it already."""
        key = (representation_id, entry.stored.start)
        if key != self._frame_of:
            self._frame_of = key
            self._frame_filled = 0
        if len(self._frame) < len(entry.stored):
            kept = self._frame[: self._frame_filled]
            self._frame = bytearray(len(entry.stored))
            self._frame[: len(kept)] = kept

    def _can_decode(self, request: Request, entry: FrameEntry, twin: TwinPlan) -> bool:
        """Wait until all is known that decoding takes; tell whether to decode, or to look again what to do.

        Planes need the header, and whoever has the request with frame 0 began it before this one was given
        out, and never waits here for it.
        """
        if not twin.can_decode(entry):
            self._transfer.wait_until(
                lambda: twin.can_decode(entry) or request.target.twin is not twin or request.is_taken
            )
        return twin.can_decode(entry)

    def _decode(self, request: Request, entry: FrameEntry, twin: TwinPlan) -> None:
        """Decode the frame at hand into its place.

        Raises:
            _DamagedFrame: it must be received again.
        """
        target = request.target
        stored = memoryview(self._frame)[: len(entry.stored)]
        wanted = entry.content.intersection(ByteRange(request.position, request.stop))
        try:
            with self._transfer.decoders.borrowed() as decoder:
                if wanted == entry.content:
                    decoder.decode(twin, entry, stored, target.window(wanted))
                else:
                    # The rest of the frame is another request's, or is there already.
                    whole = memoryview(bytearray(len(entry.content)))
                    decoder.decode(twin, entry, stored, whole)
                    start = wanted.start - entry.content.start
                    target.window(wanted)[:] = whole[start : start + len(wanted)]
        except FormatError as error:
            what = f"the frame at byte {entry.stored.start} of {twin.representation.path}"
            raise _DamagedFrame(IntegrityError(what, "a sound zstd frame", error.reason)) from error
        finally:
            self._frame_of = ("", 0)
            self._frame_filled = 0
        request.position = wanted.stop
        self._settle(target, wanted)
        if twin.is_planes and wanted.start == 0:
            # The header is known now.
            self._transfer.wake()


class _DamagedFrame(Exception):
    """A frame did not decode. Not an IntegrityError, which may be of a whole file, and final."""

    def __init__(self, error: IntegrityError) -> None:
        self.error = error
        super().__init__(str(error))


def _as_source_error(source: Source, target: Target, damage: IntegrityError) -> SourceError:
    return SourceError(source.name, f"reading {target.file.path}", str(damage), transient=True)
