"""New versions arrive warm: indexes are polled, and what is published is filled before anyone asks.

What is to be filled is decided by ``core.arrivals``, when to ask by ``core.polling``. Several processes on
one store may all do this: they share their fills, so none of them leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from typing import Any, Protocol

from hotstart.wire import documents as json_documents
from hotstart.wire.errors import FormatError, HotstartError, IntegrityError
from hotstart.wire.index import Index
from hotstart.wire.references import Reference
from hotstart_proxy.core.arrivals import Arrival, ArrivalObserver, WarmQueue, arrivals
from hotstart_proxy.core.polling import Learned, Poll, PollSchedule
from hotstart_proxy.origins.base import OriginError, OriginUnreachable
from hotstart_proxy.stores.base import NeverFits, NoSpaceNow, Store, StoreError
from hotstart_proxy.telemetry.logs import log_event

from . import documents
from .answers import CacheClosed, NotFound, NotKept
from .cache import Cache

__all__ = ["Announcements", "Arrivals", "NewsSource"]

_log = logging.getLogger("hotstart_proxy.arrivals")
_POLLS_AT_ONCE = 8
# How many intervals lie between two listings of the store, which is more work than a poll.
_POLLS_A_LISTING = 6
# Each fills several files over several connections: more at a time would only finish later, all of them.
_VERSIONS_AT_ONCE = 2


class NewsSource(Protocol):
    """Something that says which models have news: a channel, a queue. It reconnects by itself."""

    name: str
    learned: Learned

    def listen(self, trouble: Callable[[str | None], None]) -> AsyncGenerator[str, None]:
        """Yield models' names, valid ones, for ever; a name may come twice or be of no interest.

        trouble is told why nothing can be heard at present, and None when it can again.
        """


class Announcements(NewsSource, Protocol):
    """A channel by which proxies tell each other of news."""

    async def publish(self, model: str) -> None:
        """Tell all who listen that a model has news; raises nothing."""

    async def close(self) -> None:
        """Let go of what publishing needs."""


class Arrivals:
    """Keeps one cache's models up to date and warm; an async context manager, inside the cache's own."""

    def __init__(
        self,
        cache: Cache,
        stores: Sequence[Store],
        interval_seconds: float,
        observer: ArrivalObserver,
        *,
        polls: bool = True,
        named: Collection[str] = (),
        sources: Sequence[NewsSource] = (),
        announcements: Announcements | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Begin with nothing to do.

        Args:
            cache: whose models these are.
            stores: the cache's, the one that readers read first; what is held in any of them is known.
            interval_seconds: between two polls of a model.
            observer: told of what arrives.
            polls: ask by itself; False to look at what is hinted at alone, where a neighbour asks.
            named: models that are polled and filled though nobody has asked for them yet.
            sources: say which models have news.
            announcements: told of every model whose index has changed at the origin, unless they said so.
            now: seconds since the epoch.
        """
        self._cache = cache
        self._stores = tuple(stores)
        self._observer = observer
        self._named = frozenset(named)
        self._sources = sources
        self._announcements = announcements
        self._now = now
        self._asks = polls
        self._interval_seconds = interval_seconds
        self._schedule = PollSchedule(interval_seconds if polls else math.inf, random.random)
        self._queue = WarmQueue(interval_seconds, random.random)
        self._learning: dict[str, Learned] = {}
        self._wake = asyncio.Event()
        self._polls: set[asyncio.Task[None]] = set()
        self._fills: set[asyncio.Task[None]] = set()
        self._others: set[asyncio.Task[None]] = set()
        cache.watch_indexes(self._index_seen)

    async def __aenter__(self) -> Arrivals:
        for model in self._named:
            self._schedule.add(model, self._clock(), at_once=True)
        self._spawn(self._others, self._run())
        self._spawn(self._others, self._follow_store())
        for source in self._sources:
            self._spawn(self._others, self._hear(source))
        if self._announcements is not None and self._asks:
            self._spawn(self._others, self._hear(self._announcements))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        tasks = [*self._polls, *self._fills, *self._others]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def hint(self, model: str, learned: Learned) -> bool:
        """Poll a model soon, because somebody says that it has news; False if it is not known here."""
        if model not in self._schedule and await self._has_index(model):
            # A neighbour's.
            self._schedule.add(model, self._clock())
        known = self._schedule.hint(model, self._clock(), learned)
        self._wake.set()
        return known

    async def _has_index(self, model: str) -> bool:
        for store in self._stores:
            with contextlib.suppress(StoreError):
                if await store.read_document(documents.index_name(model)) is not None:
                    return True
        return False

    # The one loop, which decides nothing

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock()
            while len(self._polls) < _POLLS_AT_ONCE and (poll := self._schedule.take(now)) is not None:
                self._spawn(self._polls, self._poll(poll))
            while len(self._fills) < _VERSIONS_AT_ONCE and (arrival := self._queue.take(now)) is not None:
                self._spawn(self._fills, self._fill(arrival))
            await self._sleep(now)

    async def _sleep(self, now: float) -> None:
        """Sleep until something is due; whatever ends, begins or is added meanwhile wakes it."""
        moments = []
        if len(self._polls) < _POLLS_AT_ONCE:
            moments.append(self._schedule.next_at())
        if len(self._fills) < _VERSIONS_AT_ONCE:
            moments.append(self._queue.next_at())
        due = min((moment for moment in moments if moment is not None), default=None)
        try:
            async with asyncio.timeout(None if due is None else max(0.0, due - now)):
                await self._wake.wait()
        except TimeoutError:
            pass

    # Polls

    async def _follow_store(self) -> None:
        """Learn from the store which models to poll, and at first which fills an earlier process left.

        Models that neighbours have come to know turn up in it: other workers of this proxy, other proxies.
        """
        # Notes of fills are this level's own; a level below has left others.
        for place in await self._places(self._stores[:1]):
            if place.kind == documents.Kind.ARRIVAL:
                self._queue.add(await self._left(place.model, place.name), self._clock())
        while True:
            for place in await self._places(self._stores):
                if place.kind == documents.Kind.INDEX:
                    self._schedule.add(place.model, self._clock())
            self._wake.set()
            if not self._asks:
                return
            await asyncio.sleep(_POLLS_A_LISTING * self._interval_seconds)

    async def _places(self, stores: Sequence[Store]) -> list[documents.Place]:
        names: list[str] = []
        for store in stores:
            try:
                names += await store.documents()
            except StoreError as error:
                log_event(_log, logging.WARNING, "cannot list the models to poll", {"reason": error})
        return [place for name in names if (place := documents.place_of(name)) is not None]

    async def _left(self, model: str, version: str) -> Arrival:
        index = None
        with contextlib.suppress(StoreError):
            index = await self._cache.known_index(model)
        entry = None if index is None else index.entry(version)
        if index is None or entry is None:
            return Arrival(model, version, 0)
        return Arrival(model, version, entry.published_at, default=index.resolve(None) == version)

    async def _hear(self, source: NewsSource) -> None:
        def trouble(reason: str | None) -> None:
            self._cache.note(source.name, () if reason is None else (f"{source.name}: {reason}",))

        async with contextlib.aclosing(source.listen(trouble)) as models:
            async for model in models:
                await self.hint(model, source.learned)

    async def _poll(self, poll: Poll) -> None:
        self._learning[poll.model] = poll.learned
        try:
            index = await self._cache.poll(poll.model)
        except (OriginError, FormatError, StoreError) as error:
            log_event(_log, logging.DEBUG, "a poll failed", {"model": poll.model, "reason": error})
            away = isinstance(error, OriginUnreachable)
            self._schedule.failed(poll.model, self._clock(), origin_away=away)
            return
        finally:
            del self._learning[poll.model]
        self._schedule.answered(poll.model, self._clock())
        if index is None and poll.model not in self._named:
            self._schedule.remove(poll.model)

    def _index_seen(self, before: Index | None, after: Index) -> None:
        model = after.model
        self._schedule.add(model, self._clock())
        self._wake.set()
        if before is None:
            return
        learned = self._learning.get(model, Learned.READER)
        if self._announcements is not None and learned is not self._announcements.learned:
            self._spawn(self._others, self._announcements.publish(model))
        found = arrivals(before, after, self._cache.kept_versions(model))
        if not found:
            return
        for arrival in found:
            # Before the index that names it is kept: whoever finds that one and nothing else takes it for
            # old news.
            note = json_documents.dump_json({"model": model, "version": arrival.version})
            self._cache.keep_document(documents.arrival_name(model, arrival.version), note)
        self._spawn(self._others, self._admit(model, found, learned))

    async def _admit(self, model: str, found: Sequence[Arrival], learned: Learned) -> None:
        wanted = model in self._named or await self._in_use(model)
        for arrival in found:
            if not wanted:
                self._forget(arrival)
                continue
            self._observer.version_arrived(model, learned)
            fields = {"model": model, "version": arrival.version, "learned": learned}
            log_event(_log, logging.INFO, "a version arrived", fields)
            self._queue.add(arrival, self._clock())
        self._wake.set()

    async def _in_use(self, model: str) -> bool:
        try:
            return await self._cache.in_use(model)
        except StoreError as error:
            # A fill would fail as well, and say so.
            log_event(_log, logging.DEBUG, "cannot tell what is held", {"model": model, "reason": error})
            return True

    # Fills

    async def _fill(self, arrival: Arrival) -> None:
        began = self._clock()
        fields: dict[str, object] = {"model": arrival.model, "version": arrival.version}
        try:
            fetched = await self._warm(arrival)
        except CacheClosed:
            return
        except (NotFound, NotKept) as error:
            log_event(_log, logging.INFO, "an arrival is not filled", {**fields, "reason": error})
        except (OriginError, StoreError, IntegrityError, FormatError) as error:
            if self._failed(arrival, error):
                return
        else:
            if fetched:
                since = max(0.0, self._now() - arrival.published_at / 1000)
                if arrival.published:
                    self._observer.version_warmed(arrival.model, since)
                fields["seconds"] = round(self._clock() - began, 3)
                log_event(_log, logging.INFO, "a version is warm", fields)
        if self._queue.done(arrival):
            self._forget(arrival)

    async def _warm(self, arrival: Arrival) -> bool:
        """Fill a version; False if all of it was here."""
        reference = Reference(arrival.model, arrival.version)
        resolved = await self._cache.resolve(reference, for_reader=False)
        # A neighbour on the same store may have been first.
        await self._stores[0].refresh()
        needed, lacking = self._cache.warm_bytes(resolved)
        if not lacking:
            return False
        budget = self._cache.usage().budget_bytes
        if needed > budget:
            reason = f"it has {needed} bytes, and the budget is {budget}"
            raise NeverFits(self._stores[0].url, f"warming {reference}", reason)
        await self._cache.warm(resolved)
        return True

    def _failed(self, arrival: Arrival, error: HotstartError) -> bool:
        """Take note of a failure; tell whether the version is tried again."""
        self._observer.warm_failed(arrival.model)
        seconds = None
        if not isinstance(error, NeverFits):
            full = isinstance(error, NoSpaceNow)
            seconds = self._queue.failed(arrival, self._clock(), no_room=full)
        event = "a version could not be filled" if seconds is not None else "a version is given up"
        again = None if seconds is None else round(seconds, 3)
        fields = {"model": arrival.model, "version": arrival.version, "reason": error, "again_in": again}
        log_event(_log, logging.WARNING, event, fields)
        return seconds is not None

    def _forget(self, arrival: Arrival) -> None:
        self._cache.drop_document(documents.arrival_name(arrival.model, arrival.version))

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()

    def _spawn(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(lambda ended: self._ended(tasks, ended))

    def _ended(self, tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        self._wake.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "keeping models warm in the background failed", "exception": error, "task": task}
            )
