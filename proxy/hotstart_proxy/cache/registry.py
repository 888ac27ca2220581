"""The fills of a cache: one for each blob, however many ask, kept open between readers for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set

from hotstart.wire.errors import HotstartError
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.core.observer import Observer
from hotstart_proxy.core.pace import Pace
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.base import OriginError
from hotstart_proxy.origins.models import ModelOrigin, VersionBlob
from hotstart_proxy.stores.base import NoSpaceNow, PartialBlob, Store
from hotstart_proxy.telemetry.load import Load

from .answers import CacheClosed
from .fills import Fill, FillReader, FillTools
from .flights import Flights
from .slots import Slots

__all__ = ["Fills"]

# Piece buffers of all fills together, whatever the files' sizes: 68 MiB. One is there for premium alone, and
# batch and warming leave some, so that who is more urgent finds one at once.
_PIECE_BUFFERS = {Tier.WARMING: 12, Tier.BATCH: 12, Tier.STANDARD: 16, Tier.PREMIUM: 17}
# A fill that nobody reads costs two descriptors, and a read of all it has when it is taken up again.
_MOST_IDLE = 16
_LOOKS_A_LIFE = 4


class Fills:
    """Single-flight: whoever asks for a blob that is being filled joins its fill."""

    def __init__(
        self,
        origin: ModelOrigin,
        store: Store,
        observer: Observer,
        connections: int,
        idle_seconds: float,
        make_room: Callable[[int, Set[str]], Awaitable[bool]],
        origin_failed: Callable[[str, OriginError], None],
        ended: Callable[[Fill, HotstartError | None], None],
        closed: Callable[[Fill], None],
    ) -> None:
        """Begin with no fills.

        Args:
            origin: where bytes come from.
            store: where they go.
            observer: told of events.
            connections: requests at a time for one fill.
            idle_seconds: how long a fill that nobody reads is kept open.
            make_room: asked to free bytes, sparing some content ids; False if it cannot.
            origin_failed, ended, closed: as in ``FillTools``.
        """
        self._idle_seconds = idle_seconds
        self._watch: asyncio.Task[None] | None = None
        self._store = store
        self._make_room = make_room
        self._ended = ended
        self._tools = FillTools(
            origin=origin,
            observer=observer,
            slots=Slots(_PIECE_BUFFERS),
            connections=connections,
            pace=Pace(),
            origin_failed=origin_failed,
            ended=self._fill_ended,
            closed=closed,
        )
        # By content id, the one that was joined last standing last.
        self._fills: dict[str, Fill] = {}
        self._starting: Flights[str, Fill | None] = Flights()
        self._closing = False

    def get(self, content_id: str) -> Fill | None:
        """Return the fill of a blob, if there is one that readers may join."""
        fill = self._fills.get(content_id)
        return fill if fill is not None and fill.joinable else None

    async def join(
        self, blob: VersionBlob, wanted: ByteRange, spared: Set[str], tier: Tier
    ) -> FillReader | None:
        """Join the fill of a blob, begun if need be; None if the blob has been committed meanwhile.

        Args:
            blob: which.
            wanted: what the reader will read.
            spared: content ids that must not be evicted to make room.
            tier: the reader's.

        Raises:
            NeverFits, NoSpaceNow, StoreError: it cannot be filled.
            CacheClosed
        """
        content_id = blob.representation.id
        while True:
            if self._closing:
                raise CacheClosed
            fill = self._fills.get(content_id)
            if fill is not None and fill.joinable:
                self._fills[content_id] = self._fills.pop(content_id)
                return fill.join(wanted, tier)
            if fill is not None:
                await fill.settled()
                continue
            begun = await self._starting.run(content_id, lambda: self._start(blob, spared))
            if begun is None:
                return None

    async def _start(self, blob: VersionBlob, spared: Set[str]) -> Fill | None:
        representation = blob.representation
        if self._store.blobs().get(representation.id) == representation.size:
            return None
        await self._limit_idle()
        partial = await self._reserve(blob, spared)
        if partial is None:
            return None
        fill = Fill(self._tools, blob, partial)
        self._fills[representation.id] = fill
        fill.pump()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_idle())
        return fill

    async def _watch_idle(self) -> None:
        while self._fills:
            await asyncio.sleep(self._idle_seconds / _LOOKS_A_LIFE)
            for fill in list(self._fills.values()):
                if fill.idle_seconds >= self._idle_seconds:
                    await fill.give_up(keep=True)

    async def _reserve(self, blob: VersionBlob, spared: Set[str]) -> PartialBlob | None:
        item = blob.representation
        content_id, size, pieces = item.id, item.size, item.pieces
        try:
            return await self._store.begin_fill(content_id, size, pieces)
        except NoSpaceNow:
            if not await self._make_room(size, spared | {content_id}):
                raise
        return await self._store.begin_fill(content_id, size, pieces)

    async def _limit_idle(self) -> None:
        idle = [fill for fill in self._fills.values() if fill.idle]
        for fill in idle[: max(0, len(idle) - _MOST_IDLE)]:
            if fill.idle:
                await fill.give_up(keep=True)

    def _fill_ended(self, fill: Fill, error: HotstartError | None) -> None:
        if self._fills.get(fill.representation.id) is fill:
            del self._fills[fill.representation.id]
        self._ended(fill, error)

    def load(self) -> Load:
        """Return what is in hand."""
        slots = self._tools.slots
        return Load(
            fills=sum(not fill.idle for fill in self._fills.values()),
            slots_held=slots.held,
            slots_waiting=slots.waiting,
            reserved_bytes=slots.held * PIECE_BYTES,
        )

    def busy_bytes(self) -> int:
        """Return how many bytes are reserved by fills that somebody reads or that go on."""
        return sum(fill.representation.size for fill in self._fills.values() if not fill.idle)

    async def let_go_idle(self) -> None:
        """Close fills that nobody reads; the store has what is verified."""
        for fill in list(self._fills.values()):
            if fill.idle:
                await fill.give_up(keep=True)

    async def discard_idle(self, content_ids: Set[str] | None = None) -> int:
        """Discard fills that nobody reads, of these blobs or of all; return the bytes that came free."""
        freed = 0
        for content_id, fill in list(self._fills.items()):
            if fill.idle and (content_ids is None or content_id in content_ids):
                before = self._store.usage().used_bytes
                await fill.give_up(keep=False)
                # Nothing comes free of a fill that another process goes on with.
                freed += max(0, before - self._store.usage().used_bytes)
        return freed

    async def close(self) -> None:
        """End all fills; what is verified stays for the next start."""
        self._closing = True
        await self._starting.close()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        for fill in list(self._fills.values()):
            await fill.give_up(keep=True)
