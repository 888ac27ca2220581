"""What each level of a cache tells the metrics, so that nothing is counted twice."""

from __future__ import annotations

from collections.abc import Mapping

from hotstart_proxy.core.observer import Observer
from hotstart_proxy.telemetry.metrics import Metrics

__all__ = ["LevelObservers"]


class LevelObservers:
    """The observers of all levels of one proxy.

    Fills, evictions and damage count wherever they happen. Bytes from the origin are those that the lowest
    level gets; bytes handed out those that the top one gives. What does not work is the union.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._degraded: dict[str, tuple[str, ...]] = {}

    def observer(self, store: str, *, is_top: bool, is_lowest: bool) -> Observer:
        """Return the observer of one level.

        Args:
            store: its label.
            is_top: readers read from it.
            is_lowest: it reads from the origin.
        """
        return _LevelObserver(self, self._metrics, store, is_top=is_top, is_lowest=is_lowest)

    def degraded(self, store: str, reasons: tuple[str, ...]) -> None:
        """Take in what does not work at one level."""
        self._degraded[store] = reasons
        every = (reason for level in self._degraded.values() for reason in level)
        self._metrics.degraded(tuple(dict.fromkeys(every)))


class _LevelObserver(Observer):
    """Passes on what counts at its level."""

    def __init__(
        self, all_levels: LevelObservers, metrics: Metrics, store: str, *, is_top: bool, is_lowest: bool
    ) -> None:
        self._all_levels = all_levels
        self._metrics = metrics
        self._store = store
        self._is_top = is_top
        self._is_lowest = is_lowest

    def fill_started(self, model: str, size_bytes: int) -> None:
        self._metrics.fill_started(model, size_bytes)

    def fill_ended(self, model: str, outcome: str, fetched_bytes: int, seconds: float) -> None:
        self._metrics.fill_ended(model, outcome, fetched_bytes, seconds)

    def origin_bytes(self, model: str, count: int) -> None:
        if self._is_lowest:
            self._metrics.origin_bytes(model, count)

    def answered(self, model: str, source: str, count: int) -> None:
        if self._is_top:
            self._metrics.answered(model, source, count)

    def store_read(self, kind: str, count: int) -> None:
        self._metrics.store_read(kind, count)

    def read_answered(self, model: str, tier: str, outcome: str) -> None:
        if self._is_top:
            self._metrics.read_answered(model, tier, outcome)

    def redirected(self, model: str, count: int) -> None:
        self._metrics.redirected(model, count)

    def aliases_seen(self, model: str, aliases: Mapping[str, str]) -> None:
        if self._is_top:
            self._metrics.aliases_seen(model, aliases)

    def origin_retried(self, reason: str) -> None:
        self._metrics.origin_retried(reason)

    def origin_failed(self, kind: str) -> None:
        self._metrics.origin_failed(kind)

    def circuit_opened(self, is_open: bool) -> None:
        self._metrics.circuit_opened(is_open)

    def refetched(self, model: str) -> None:
        self._metrics.refetched(model)

    def healed(self, model: str) -> None:
        self._metrics.healed(model)

    def verified(self, count: int) -> None:
        self._metrics.verified(count)

    def evicted(self, reason: str, count: int) -> None:
        self._metrics.evicted(reason, count)

    def degraded(self, reasons: tuple[str, ...]) -> None:
        self._all_levels.degraded(self._store, reasons)
