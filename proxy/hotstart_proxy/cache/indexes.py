"""The indexes of models: asked for again when they are old, and served stale while the origin is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from hotstart.wire.catalog import KnownIndex
from hotstart.wire.errors import FormatError, HotstartError
from hotstart.wire.index import Index
from hotstart_proxy.origins.base import OriginError
from hotstart_proxy.origins.models import ModelOrigin
from hotstart_proxy.stores.base import Store, StoreError

from . import documents
from .answers import NotFound
from .condition import Condition
from .flights import Flights, landed

__all__ = ["Indexes"]

# How long a reader waits for an origin that is slow when there is an answer, though an old one.
_STALE_AFTER_SECONDS = 2.0
# Names that were asked for and do not exist are remembered for as long as an index is, and no more than:
_MOST_MISSING = 1024


@dataclass(slots=True)
class _State:
    """What is known of one model.

    Attributes:
        index: as last seen, perhaps by an earlier process; None if never, or if there is no such model.
        known: the origin's answer to hand back in; None before the first, or when all is to be asked anew.
        checked_at: when the origin was last asked, whatever came of it.
        failed: what the origin said instead of an answer, at that time.
        loaded: the store has been asked.
        overdue: somebody has waited in vain for the refresh that is under way.
    """

    index: Index | None = None
    known: KnownIndex | None = None
    checked_at: float = float("-inf")
    failed: HotstartError | None = None
    loaded: bool = False
    overdue: bool = False


class Indexes:
    """One cache's knowledge of which models and versions there are."""

    def __init__(
        self,
        origin: ModelOrigin,
        store: Store,
        ttl_seconds: float,
        now: Callable[[], float],
        condition: Condition,
        seen: Callable[[Index | None, Index], None],
        keep: Callable[[Index], None],
        gone: Callable[[str], None],
    ) -> None:
        """Begin with nothing known.

        Args:
            origin: asked when what is known is older than ttl_seconds.
            store: keeps the last answers.
            ttl_seconds: see ``CacheSettings.alias_ttl_seconds``.
            now: seconds since the epoch.
            condition: told how the origin and the store did.
            seen: told of every index that is new, and of the one before it, before anybody else.
            keep: told of those that the store does not have yet.
            gone: told of a model that there was and is no more.
        """
        self._origin = origin
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._now = now
        self._condition = condition
        self._seen = seen
        self._keep = keep
        self._gone = gone
        self._states: dict[str, _State] = {}
        self._loads: Flights[str, None] = Flights()
        self._refreshes: Flights[str, None] = Flights()
        self._listings: Flights[None, tuple[str, ...]] = Flights()
        self._names: tuple[str, ...] | None = None
        self._names_at = float("-inf")

    async def get(self, model: str, max_age_seconds: float | None = None) -> Index:
        """Return a model's index, no older than the ttl while the origin answers.

        Args:
            model: two segments.
            max_age_seconds: another age than the ttl.

        Raises:
            NotFound: the origin was asked, and there is no such model.
            OriginError, FormatError: nothing is known and the origin did not say.
        """
        state = self._states.setdefault(model, _State())
        if not self._fresh(state.checked_at, max_age_seconds):
            await self._load(model, state)
            refresh = self._refreshes.task(model, lambda: self._refresh(model, state))
            hopeless = state.overdue or state.failed is not None
            patience = 0.0 if hopeless else _STALE_AFTER_SECONDS
            await asyncio.wait([refresh], timeout=None if state.index is None else patience)
            if refresh.done():
                await landed(refresh)
            else:
                state.overdue = True
        if state.index is not None:
            return state.index
        if state.failed is not None:
            raise state.failed
        raise NotFound("model", model)

    async def load(self, model: str) -> Index | None:
        """Return what is known of a model without asking the origin; None if nothing is."""
        state = self._states.setdefault(model, _State())
        await self._load(model, state)
        return state.index

    async def poll(self, model: str) -> Index | None:
        """Ask the origin, by a request that begins now; None if there is no such model.

        Raises:
            OriginError, FormatError: it did not say.
        """
        state = self._states.setdefault(model, _State())
        await self._load(model, state)
        # One that is under way may have been answered before what there is to learn had happened.
        await self._refreshes.wait(model)
        await self._refreshes.run(model, lambda: self._refresh(model, state))
        if state.failed is not None:
            raise state.failed
        return state.index

    def distrust(self, model: str) -> None:
        """Ask anew and in full when the model is needed next: its objects are not what was said."""
        state = self._states.get(model)
        if state is not None:
            state.known = None
            state.checked_at = float("-inf")

    async def names(self, max_age_seconds: float | None = None) -> tuple[str, ...]:
        """Return all models; while the origin is away, those that are known.

        Args:
            max_age_seconds: as in get.

        Raises:
            OriginError: nothing is known and the origin did not say.
        """
        if self._names is None or not self._fresh(self._names_at, max_age_seconds):
            try:
                self._names = await self._listings.run(None, self._list_names)
            except OriginError:
                known = await self._kept_names()
                if self._names is None and not known:
                    raise
                self._names = tuple(sorted({*(self._names or ()), *known}))
            self._names_at = self._now()
        return self._names

    async def _list_names(self) -> tuple[str, ...]:
        try:
            names = await self._origin.models()
        except OriginError as error:
            self._condition.origin_failed(error)
            raise
        self._condition.origin_answered()
        return names

    async def _kept_names(self) -> set[str]:
        places = [documents.place_of(name) for name in await self._store.documents()]
        return {place.model for place in places if place is not None and place.kind == documents.Kind.INDEX}

    def _fresh(self, checked_at: float, max_age_seconds: float | None) -> bool:
        age = self._now() - checked_at
        # A clock that was set back must not make anything fresh for hours.
        return 0 <= age < (self._ttl_seconds if max_age_seconds is None else max_age_seconds)

    async def _load(self, model: str, state: _State) -> None:
        # Before the first refresh: what is new is told by what was kept.
        if not state.loaded:
            await self._loads.run(model, lambda: self._read(model, state))

    async def _read(self, model: str, state: _State) -> None:
        try:
            data = await self._store.read_document(documents.index_name(model))
            if data is not None:
                state.index = Index.parse(data)
                self._seen(None, state.index)
        except StoreError as error:
            self._condition.store_failed(error)
        except FormatError:
            await self._store.delete_document(documents.index_name(model))
        finally:
            state.loaded = True

    async def _refresh(self, model: str, state: _State) -> None:
        try:
            known = await self._origin.index(model, int(self._now() * 1000), state.known)
        except (OriginError, FormatError) as error:
            state.failed = error
            if isinstance(error, OriginError):
                self._condition.origin_failed(error)
            return
        finally:
            state.checked_at = self._now()
            state.overdue = False
        self._condition.origin_answered()
        before = state.index
        state.failed = None
        state.known = known
        state.index = None if known is None else known.index
        if state.index is None:
            if before is not None:
                self._gone(model)
            self._limit_missing()
        elif state.index != before:
            self._seen(before, state.index)
            self._keep(state.index)

    def _limit_missing(self) -> None:
        missing = [model for model, state in self._states.items() if state.index is None]
        for model in missing[: max(0, len(missing) - _MOST_MISSING)]:
            del self._states[model]

    async def close(self) -> None:
        """Ask for nothing more."""
        await self._loads.close()
        await self._refreshes.close()
        await self._listings.close()
