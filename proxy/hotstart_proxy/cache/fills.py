"""One fill: origin to store, every piece verified before any reader has it, readers served as pieces come."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from hotstart.wire.errors import HotstartError, IntegrityError
from hotstart.wire.pieces import PIECE_BYTES, missing_runs, piece_range, pieces_of
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.core.fill import FillState
from hotstart_proxy.core.foresight import Foresight
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.pace import Pace
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.base import ObjectChanged, OriginError, OriginUnreachable
from hotstart_proxy.origins.models import ModelOrigin, VersionBlob
from hotstart_proxy.stores.base import FileSlice, PartialBlob, StoreError, Vanished

from .answers import CacheClosed, ReadOutcome
from .slots import Slots

__all__ = ["Fill", "FillReader", "FillTools"]

# Two pieces a request, where the origin answers at once: few enough that a reader who jumps ahead does not
# wait long for a connection. Where its first byte takes long, up to eight, for bytes that nobody waits for.
_SHORTEST_RUN = 2
_LONGEST_RUN = 8
# 512 MiB: what sixteen connections ask for at a time with the longest runs.
_AHEAD = 128
_TRIES_A_PIECE = 3


@dataclass(frozen=True, slots=True)
class FillTools:
    """What all fills of a cache work with.

    Attributes:
        slots: one for each piece buffer that may be in use, whichever fill uses it.
        connections: requests at a time for one fill.
        pace: how the origin answers; shared by all fills.
        origin_failed: told of every error of the origin that failed readers, and of which model it was.
        ended: called once on the event loop when a fill is over and its name in the store free, with what
            ended it; None: the blob is committed.
        closed: called once on the event loop when its last reader has left as well, and its files are closed.
    """

    origin: ModelOrigin
    observer: Observer
    slots: Slots
    connections: int
    pace: Pace
    origin_failed: Callable[[str, OriginError], None]
    ended: Callable[[Fill, HotstartError | None], None]
    closed: Callable[[Fill], None]


class Fill:
    """One fill of one blob, for any number of readers.

    An error of the origin fails the readers of that moment and leaves the fill open: the next reader tries
    again. A replaced object, a wrong whole, or a failing store ends it.

    Attributes:
        tier: the most urgent of its readers'; what is fetched for nobody can wait for everybody.
    """

    def __init__(self, tools: FillTools, blob: VersionBlob, partial: PartialBlob) -> None:
        self.blob = blob
        self.representation = blob.representation
        self.partial = partial
        self.ended = False
        self.error: HotstartError | None = None
        self.tier = Tier.WARMING
        self._tools = tools
        self._state = FillState(partial.done, _SHORTEST_RUN)
        self._pieces = range(len(partial.done))
        self._foresight = Foresight(_AHEAD)
        self._readers: dict[int, FillReader] = {}
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._workers: set[asyncio.Task[bool]] = set()
        self._busy = 0
        self._damaged: dict[int, int] = {}
        self._watch: asyncio.Task[None] | None = None
        self._fetched_bytes = 0
        self._began = asyncio.get_running_loop().time()
        self._tail: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._closed = False
        self._left_at = self._began
        tools.observer.fill_started(blob.model, blob.representation.size)

    @property
    def joinable(self) -> bool:
        """Tell whether readers may join: until it fails, and until its blob is committed."""
        return self.error is None and not self._settled.is_set()

    @property
    def idle(self) -> bool:
        """Tell whether nobody reads and nothing is fetched: it may be closed or discarded."""
        return not (self._readers or self._workers or self.ended) and self._state.idle

    @property
    def idle_seconds(self) -> float:
        """Return how long it has been idle; 0 if it is not."""
        return asyncio.get_running_loop().time() - self._left_at if self.idle else 0.0

    def done_bytes(self) -> int:
        """Return how many bytes it holds, those included that an earlier fill has left."""
        size, held = self.representation.size, zip(self.partial.done, self.partial.left, strict=True)
        return sum(len(piece_range(piece, size)) for piece, flags in enumerate(held) if any(flags))

    def has(self, wanted: ByteRange) -> bool:
        """Tell whether all wanted bytes are verified already."""
        return all(self._state.is_done(piece) for piece in pieces_of(wanted))

    def join(self, wanted: ByteRange, tier: Tier) -> FillReader:
        """Take in a reader; it must be joinable. The caller closes the reader."""
        outcome = ReadOutcome.MISS if self.idle else ReadOutcome.COALESCED
        if self.has(wanted):
            outcome = ReadOutcome.HIT
        pieces = pieces_of(wanted)
        token = self._state.join(pieces, tier)
        ahead = self._foresight.asked(pieces)
        self._state.ask(self._pieces[ahead.start : ahead.stop])
        reader = FillReader(self, token, wanted, tier, outcome)
        self._readers[token] = reader
        self._review_tier()
        self.pump()
        return reader

    def _review_tier(self) -> None:
        tier = max((reader.tier for reader in self._readers.values()), default=Tier.WARMING)
        if tier != self.tier:
            self.tier = tier
            self._tools.slots.review()

    async def settled(self) -> None:
        """Wait until it has ended and its name in the store is free."""
        await self._settled.wait()

    def pump(self) -> None:
        """Start what can be started now: requests, or the commit."""
        if self.ended:
            return
        if self._state.complete:
            self._end(None)
            return
        # One connection is left for a reader who jumps ahead, where there are several.
        most = self._tools.connections if self._state.urgent else max(1, self._tools.connections - 1)
        while len(self._workers) < most and len(self._workers) - self._busy < self._state.asked:
            task = asyncio.create_task(self._work())
            self._workers.add(task)
            task.add_done_callback(self._worker_ended)

    def _worker_ended(self, task: asyncio.Task[bool]) -> None:
        self._workers.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._end(self._unforeseen(error))
        elif task.result():
            self.pump()

    def _unforeseen(self, error: BaseException) -> StoreError:
        """Return one of our errors for one that is not: readers must not hang for it, and are told."""
        failure = StoreError("fill", f"filling {self.representation.path}", repr(error))
        failure.__cause__ = error
        return failure

    async def _work(self) -> bool:
        """Fetch one run; False if there was none for it."""
        async with self._tools.slots.slot(lambda: self.tier):
            urgent_only = self._busy >= max(1, self._tools.connections - 1)
            self._state.longest_run = self._run_length()
            run = self._state.next_run(urgent_only=urgent_only)
            if run is None:
                return False
            for reader in self._readers.values():
                reader.fetched(run)
            # Whoever joins later gets a try of its own.
            readers = set(self._readers)
            failure: HotstartError | None = None
            self._busy += 1
            try:
                await self._get(run)
            except (OriginError, StoreError, IntegrityError) as error:
                failure = error
            finally:
                self._busy -= 1
                self._state.failed(run)
            if failure is not None:
                self._failed(failure, run, readers)
            return True

    def _run_length(self) -> int:
        """Return how many pieces to ask for at once: no more than leaves something for every connection."""
        share = self._state.asked // self._tools.connections
        return self._tools.pace.run(_SHORTEST_RUN, min(max(_SHORTEST_RUN, share), _LONGEST_RUN), PIECE_BYTES)

    def _failed(self, error: HotstartError, run: range, readers: set[int]) -> None:
        if isinstance(error, ObjectChanged | StoreError):
            self._end(error)
            return
        needing = {token for token in readers if self._needs_any(token, run)}
        if isinstance(error, OriginError):
            self._tools.origin_failed(self.blob.model, error)
            # Where nobody waits for the run, it was fetched ahead: then it is merely not asked for any more.
            needing = readers if needing else needing
        self._fail_readers(needing, error)

    def _needs_any(self, token: int, run: range) -> bool:
        return any(self._state.needs(token, piece) and not self._state.is_done(piece) for piece in run)

    async def _get(self, run: range) -> None:
        for piece in run:
            if self.partial.left[piece] and await self.partial.recover(piece):
                self._done(piece)
        missing = [piece for piece in run if not self.partial.done[piece]]
        if not missing:
            return
        ours = await self.partial.claim(missing)
        try:
            for piece in missing:
                # One that is left by now is looked at in the next round, like any other that is asked for.
                if piece not in ours and not self.partial.left[piece]:
                    self._elsewhere(piece)
            not_ours = [piece not in ours for piece in range(run.stop)]
            for part in missing_runs(not_ours, run, len(run)):
                await self._fetch(part)
        finally:
            await self.partial.release(ours)

    def _elsewhere(self, piece: int) -> None:
        if self.ended:
            return
        self._state.elsewhere(piece)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_others())
            self._watch.add_done_callback(self._watch_ended)

    def _watch_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._end(self._unforeseen(error))

    async def _watch_others(self) -> None:
        while self._state.waits_for_others and not self.ended:
            await asyncio.sleep(self.partial.poll_seconds)
            try:
                busy = await self.partial.refresh()
            except StoreError as error:
                self._end(error)
                return
            if not self.ended and self._state.returned(busy):
                self.pump()

    async def _fetch(self, run: range) -> None:
        size = self.representation.size
        wanted = ByteRange(run.start * PIECE_BYTES, min(run.stop * PIECE_BYTES, size))
        buffer = memoryview(bytearray(min(PIECE_BYTES, len(wanted))))
        piece, filled = run.start, 0
        asked_at = _now()
        async with self._tools.origin.receive(self.blob, wanted, buffer, self.tier) as chunks:
            answered_at = _now()
            async for chunk in chunks:
                self._tools.observer.origin_bytes(self.blob.model, len(chunk))
                rest = memoryview(chunk)
                while rest and piece < run.stop:
                    length = len(piece_range(piece, size))
                    part = rest[: length - filled]
                    if rest.obj is not buffer.obj:
                        buffer[filled : filled + len(part)] = part
                    filled += len(part)
                    rest = rest[len(part) :]
                    if filled == length:
                        await self._keep(piece, buffer[:length])
                        piece, filled = piece + 1, 0
            if piece == run.stop:
                self._tools.pace.observed(answered_at - asked_at, _now() - answered_at, len(wanted))
        if piece < run.stop:
            raise OriginUnreachable(
                self._tools.origin.url,
                f"reading {self.representation.path}",
                f"the body ended in piece {piece}, {wanted.stop - piece * PIECE_BYTES - filled} bytes short",
            )

    async def _keep(self, piece: int, data: memoryview) -> None:
        crc32 = await asyncio.to_thread(zlib.crc32, data)
        if self.representation.pieces is not None:
            try:
                self.representation.pieces.check_crc32(piece, crc32, self.representation.path)
            except IntegrityError:
                self._damaged[piece] = self._damaged.get(piece, 0) + 1
                if self._damaged[piece] >= _TRIES_A_PIECE:
                    del self._damaged[piece]
                    raise
                self._tools.observer.refetched(self.blob.model)
                await self._tools.origin.found_damaged(self.blob)
                return
        await self.partial.write(piece, data, crc32)
        self._fetched_bytes += len(data)
        self._done(piece)

    def _done(self, piece: int) -> None:
        if self.ended:
            return
        self._state.done(piece)
        for future in self._waiting.pop(piece, ()):
            _wake(future)

    def _fail_readers(self, tokens: set[int], error: HotstartError) -> None:
        for token in tokens:
            reader = self._readers.get(token)
            if reader is not None:
                reader.error = error
        self._state.forget(tokens)
        self._wake_all()

    def _wake_all(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                _wake(future)

    def vanished(self, error: Vanished) -> None:
        """End it, since the store has lost what was done here: a new fill knows what is left."""
        self._end(error)

    def _end(self, error: HotstartError | None) -> None:
        """Take no more readers, and settle in a task that nobody's cancellation reaches."""
        if self.ended:
            return
        self.ended = True
        self.error = error
        if error is not None:
            self._fail_readers(set(self._readers), error)
        self._tail = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        try:
            await self._stop_workers()
            if self.error is None:
                await self.partial.commit(self.representation.sha256)
        except (IntegrityError, StoreError) as error:
            self.error = error
        except Exception as error:  # noqa: BLE001  whoever waits for the end must not wait for ever
            self.error = self._unforeseen(error)
        # What has vanished is fetched alone by the next fill, which takes up the rest.
        if self.error is not None and not isinstance(self.error, Vanished):
            await self._discard()
        self._over(_outcome(self.error))
        if not self._readers:
            await self._close()

    async def _close(self) -> None:
        try:
            await self.partial.close()
        finally:
            if not self._closed:
                self._closed = True
                self._tools.closed(self)

    async def _discard(self) -> None:
        try:
            await self.partial.discard()
        except StoreError:
            # What stays is dropped when nobody has gone on with it.
            pass
        except Exception as error:  # noqa: BLE001  as above; nobody else would tell of it
            context = {"message": "discarding a fill failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    async def _stop_workers(self) -> None:
        current = asyncio.current_task()
        tasks: set[asyncio.Task[Any]] = {*self._workers}
        if self._watch is not None:
            tasks.add(self._watch)
        workers = [task for task in tasks if task is not current and not task.done()]
        for task in workers:
            task.cancel()
        if workers:
            await asyncio.wait(workers)

    def _over(self, outcome: str) -> None:
        if self._settled.is_set():
            return
        seconds = asyncio.get_running_loop().time() - self._began
        self._tools.observer.fill_ended(self.blob.model, outcome, self._fetched_bytes, seconds)
        self._tools.ended(self, self.error)
        self._settled.set()

    async def release(self, token: int) -> None:
        """Let a reader go; whoever is last after the end closes the files."""
        self._state.leave(token)
        if self._readers.pop(token, None) is None:
            return
        self._left_at = asyncio.get_running_loop().time()
        self._review_tier()
        if not self._readers and self._settled.is_set():
            await self._close()

    async def give_up(self, *, keep: bool) -> None:
        """End it before it is complete: its readers get CacheClosed, and what is verified stays if keep.

        A commit under way is broken off, if it has come no further than to hashing the whole. A caller who is
        cancelled leaves it ending.
        """
        if self._settled.is_set():
            return
        if self._leaving is None:
            if self._tail is not None:
                self._tail.cancel()
            self.ended = True
            self.error = CacheClosed()
            self._fail_readers(set(self._readers), self.error)
            self._leaving = asyncio.create_task(self._leave(keep=keep))
        await asyncio.shield(self._leaving)

    async def _leave(self, *, keep: bool) -> None:
        try:
            await self._stop_workers()
            if not keep:
                await self._discard()
            if not self._readers:
                await self._close()
        finally:
            self._over("closed")

    async def wait_for(self, reader: FillReader, piece: int) -> int:
        """Wait until piece is verified; return the first piece after it that is not.

        Raises:
            OriginError, StoreError, IntegrityError, CacheClosed: it will not be.
        """
        while not self._state.is_done(piece):
            if reader.error is not None:
                raise reader.error
            self._state.move(reader.token, piece)
            if self._state.is_asked(piece):
                reader.queue(piece)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(piece, []).append(future)
            self.pump()
            await future
        return self._state.done_until(piece)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _outcome(error: HotstartError | None) -> str:
    match error:
        case None:
            return "complete"
        case ObjectChanged():
            return "changed"
        case IntegrityError():
            return "damaged"
        case _:
            return "store"


class FillReader:
    """One reader of a fill: its bytes in order, as they are verified."""

    def __init__(self, fill: Fill, token: int, wanted: ByteRange, tier: Tier, outcome: ReadOutcome) -> None:
        self.fill = fill
        self.token = token
        self.wanted = wanted
        self.tier = tier
        self.outcome = outcome
        self.error: HotstartError | None = None
        self._queued_for: int | None = None
        self._queued_at = 0.0
        self._queue_seconds = 0.0

    @property
    def queue_seconds(self) -> float:
        """How long it has waited for pieces that nobody had begun to fetch."""
        waiting = 0.0 if self._queued_for is None else _now() - self._queued_at
        return self._queue_seconds + waiting

    def queue(self, piece: int) -> None:
        """Note that it waits for a piece that nobody fetches yet."""
        if self._queued_for is None:
            self._queued_for, self._queued_at = piece, _now()

    def fetched(self, run: range) -> None:
        """Note that somebody begins to fetch these pieces."""
        if self._queued_for is not None and self._queued_for in run:
            self._queue_seconds += _now() - self._queued_at
            self._queued_for = None

    async def parts(self) -> AsyncIterator[FileSlice | bytes]:
        """Yield the wanted bytes as slices, each valid until the reader is closed.

        Raises (while iterating):
            OriginError, StoreError, IntegrityError, CacheClosed
        """
        position = self.wanted.start
        while position < self.wanted.stop:
            done_until = await self.fill.wait_for(self, position // PIECE_BYTES)
            stop = min(done_until * PIECE_BYTES, self.wanted.stop)
            try:
                async for part in self.fill.partial.parts(ByteRange(position, stop)):
                    yield part
            except Vanished as error:
                self.fill.vanished(error)
                raise
            position = stop

    async def arrived(self) -> None:
        """Wait until all wanted bytes are verified; none is read.

        Raises:
            OriginError, StoreError, IntegrityError, CacheClosed
        """
        position = self.wanted.start
        while position < self.wanted.stop:
            position = await self.fill.wait_for(self, position // PIECE_BYTES) * PIECE_BYTES

    async def close(self) -> None:
        """Leave; what was asked for is still fetched. Idempotent."""
        await self.fill.release(self.token)
