"""References that readiness waits for: filled at the start, and waited for until a deadline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from hotstart.wire.errors import HotstartError
from hotstart.wire.index import Index
from hotstart.wire.references import Reference
from hotstart_proxy.core.arrivals import ArrivalObserver
from hotstart_proxy.telemetry.logs import log_event

from .answers import CacheClosed, CacheState
from .cache import Cache

__all__ = ["Awaited"]

_log = logging.getLogger("hotstart_proxy.arrivals")
_SUBJECT = "--ready-when"
_FIRST_RETRY_SECONDS = 0.5


class Awaited:
    """Fills some references, and says until then that the proxy is not ready; an async context manager.

    What has been here once is not waited for again: an alias that moves later makes nobody unready.
    """

    def __init__(
        self,
        cache: Cache,
        references: Sequence[Reference],
        within_seconds: float,
        retry_seconds: float,
        observer: ArrivalObserver,
        waited_seconds: float = 0.0,
    ) -> None:
        """Begin with all references missing.

        Args:
            cache: fills them; entered before and left after.
            references: of whole versions.
            within_seconds: how long readiness waits for them.
            retry_seconds: most time between two tries of one, unless its model's index changes before.
            observer: told how many are missing.
            waited_seconds: how long it has waited already, in a worker that was replaced.
        """
        self._cache = cache
        self._within_seconds = within_seconds
        self._waited_seconds = waited_seconds
        self._retry_seconds = retry_seconds
        self._observer = observer
        self._missing: dict[Reference, str] = dict.fromkeys(references, "it is being looked for")
        self._news: dict[Reference, asyncio.Event] = {item: asyncio.Event() for item in references}
        self._late = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Awaited:
        self._cache.watch_indexes(self._index_seen)
        for reference in list(self._missing):
            self._tasks.add(asyncio.create_task(self._fill(reference)))
        if self._missing:
            self._tasks.add(asyncio.create_task(self._watch_deadline()))
        self._tell()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def models(self) -> frozenset[str]:
        """The models that are named."""
        return frozenset(reference.model for reference in self._news)

    def state(self) -> CacheState:
        """Return how the cache is, and what is waited for while the deadline has not passed."""
        warming = () if self._late else self._reasons("")
        return replace(self._cache.state(), warming=warming)

    def _reasons(self, after: str) -> tuple[str, ...]:
        return tuple(f"{reference} is not here{after}: {why}" for reference, why in self._missing.items())

    def _index_seen(self, before: Index | None, after: Index) -> None:
        for reference, news in self._news.items():
            if reference.model == after.model:
                news.set()

    async def _fill(self, reference: Reference) -> None:
        began = asyncio.get_running_loop().time()
        news = self._news[reference]
        pause = min(_FIRST_RETRY_SECONDS, self._retry_seconds)
        while True:
            news.clear()
            try:
                version = await self._warm(reference)
                break
            except CacheClosed:
                return
            except HotstartError as error:
                # Whatever it is, it may pass: the origin comes back, the version is published.
                self._still_missing(reference, str(error))
            try:
                async with asyncio.timeout(pause):
                    await news.wait()
            except TimeoutError:
                pause = min(pause * 2, self._retry_seconds)
        del self._missing[reference]
        seconds = round(asyncio.get_running_loop().time() - began, 3)
        fields = {"reference": reference, "version": version, "seconds": seconds}
        log_event(_log, logging.INFO, "what readiness waited for is here", fields)
        self._tell()

    async def _warm(self, reference: Reference) -> str:
        """Fill what a reference means, and what it has come to mean meanwhile; return that version."""
        before: str | None = None
        while True:
            resolved = await self._cache.resolve(reference, for_reader=False)
            version = resolved.manifest.version
            if version == before:
                return version
            before = version
            self._still_missing(reference, f"version {version} is being filled")
            await self._cache.warm(resolved)

    def _still_missing(self, reference: Reference, why: str) -> None:
        if self._missing[reference] != why:
            self._missing[reference] = why
            log_event(_log, logging.INFO, "not warm yet", {"reference": reference, "reason": why})
            self._tell()

    async def _watch_deadline(self) -> None:
        await asyncio.sleep(max(0.0, self._within_seconds - self._waited_seconds))
        if self._missing:
            self._late = True
            for text in self._reasons(self._after()):
                log_event(_log, logging.WARNING, "ready, though not warm", {"reason": text})
            self._tell()

    def _after(self) -> str:
        return f" after {self._within_seconds:g} s"

    def _tell(self) -> None:
        self._observer.awaited(len(self._missing), late=self._late)
        if self._late:
            texts = tuple(f"{_SUBJECT}: {text}" for text in self._reasons(self._after()))
            self._cache.note(_SUBJECT, texts)
