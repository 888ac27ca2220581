"""The scrub: a verification of the store after the start, and then at intervals, by one process of all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable

from hotstart.wire.errors import FormatError
from hotstart_proxy.core.scrub import BEAT_SECONDS, SCRUB_PACE, ScrubRecord, seconds_to_wait
from hotstart_proxy.stores.base import Store, StoreError
from hotstart_proxy.telemetry.logs import log_event

from .verification import Verifier

__all__ = ["RECORD_NAME", "Scrub"]

RECORD_NAME = "scrub.json"
# Longer than two processes that start together take to look and to write.
_SETTLING_SECONDS = 1.0
_log = logging.getLogger("hotstart_proxy.scrub")


class _Lost(Exception):
    """Another process took this one for gone, and scrubs now; never leaves this module."""


class Scrub:
    """One process's part in scrubbing one store."""

    def __init__(
        self,
        store: Store,
        verifier: Verifier,
        interval_seconds: float,
        now: Callable[[], float],
        store_failed: Callable[[StoreError], None],
    ) -> None:
        """Prepare.

        Args:
            store: what is scrubbed, and holds the record of it.
            verifier: of that store.
            interval_seconds: from the end of one scrub to the beginning of the next.
            now: seconds since the epoch.
            store_failed: told of what broke off a scrub.
        """
        self._store = store
        self._verifier = verifier
        self._interval_seconds = interval_seconds
        self._now = now
        self._store_failed = store_failed
        self._me = secrets.token_hex(8)
        self._renewed = 0.0
        # The blob that was read last, while this process scrubs.
        self._last: str | None = None

    async def run(self) -> None:
        """Scrub whenever it is this process's turn, until cancelled."""
        try:
            await self._take_turns()
        except asyncio.CancelledError:
            if self._last is not None:
                # Whoever comes next need not wait to see that this process is gone.
                with contextlib.suppress(StoreError):
                    await self._keep(ScrubRecord(self._me, 0, self._last, None))
            raise

    async def _take_turns(self) -> None:
        since = self._now_ms()
        while True:
            try:
                record = await self._record()
                wait = seconds_to_wait(record, self._me, since, self._now_ms(), self._interval_seconds)
                if not wait and await self._claim("" if record is None else record.after):
                    # However the clock was set meanwhile, what was scrubbed now counts as scrubbed.
                    since = await self._scrub("" if record is None else record.after)
                    continue
            except _Lost:
                self._last = None
                continue
            except StoreError as error:
                self._store_failed(error)
                wait = BEAT_SECONDS
            await asyncio.sleep(wait)

    async def _claim(self, after: str) -> bool:
        """Say that this process does it; False if another one said so at the same moment, and later."""
        await self._renew(after)
        await asyncio.sleep(_SETTLING_SECONDS)
        if await self._is_mine():
            return True
        self._last = None
        return False

    async def _is_mine(self) -> bool:
        record = await self._record()
        return record is not None and record.by == self._me

    async def _scrub(self, after: str) -> int:
        found = await self._verifier.verify(SCRUB_PACE, after, self._progress)
        finished_at = self._now_ms()
        await self._write(after, finished_at)
        self._last = None
        log_event(
            _log,
            logging.INFO,
            "scrub finished",
            {
                "store": self._store.url,
                "blobs": found.checked_blobs,
                "bytes": found.checked_bytes,
                "documents": found.checked_documents,
                "unknown": found.unknown_blobs,
                "damaged": len(found.damaged),
            },
        )
        return finished_at

    async def _progress(self, last: str) -> None:
        if asyncio.get_running_loop().time() - self._renewed >= BEAT_SECONDS:
            if not await self._is_mine():
                raise _Lost
            await self._renew(last)

    async def _renew(self, after: str) -> None:
        self._last = after
        self._renewed = asyncio.get_running_loop().time()
        await self._write(after, finished_at=None)

    async def _write(self, after: str, finished_at: int | None) -> None:
        await self._keep(ScrubRecord(self._me, self._now_ms(), after, finished_at))

    async def _keep(self, record: ScrubRecord) -> None:
        await self._store.write_document(RECORD_NAME, record.dump())

    async def _record(self) -> ScrubRecord | None:
        data = await self._store.read_document(RECORD_NAME)
        if data is None:
            return None
        try:
            return ScrubRecord.parse(data)
        except FormatError:
            return None

    def _now_ms(self) -> int:
        return int(self._now() * 1000)
