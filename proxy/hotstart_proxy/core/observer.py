"""What the cache tells whoever counts: small events, so that metrics wrap it instead of living in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["NullObserver", "Observer"]


class Observer(Protocol):
    """Told of events as they happen, on the event loop; must return at once and raise nothing."""

    def fill_started(self, model: str, size_bytes: int) -> None:
        """A fill of a blob of this size begins, or goes on with what an earlier one left."""

    def fill_ended(self, model: str, outcome: str, fetched_bytes: int, seconds: float) -> None:
        """A fill is over.

        Args:
            model: two segments.
            outcome: ``"complete"``, ``"changed"`` (the object was replaced), ``"damaged"`` (the whole has
                another sha256), ``"store"`` (the store failed), ``"closed"`` (before it was complete).
            fetched_bytes: verified bytes that this fill took from the origin.
            seconds: since it began.
        """

    def origin_bytes(self, model: str, count: int) -> None:
        """Bytes of a file arrived from the origin, for a fill or a pass-through."""

    def answered(self, model: str, source: str, count: int) -> None:
        """Bytes were handed out; source is ``"hit"``, ``"fill"`` or ``"pass-through"``."""

    def store_read(self, kind: str, count: int) -> None:
        """Bytes of a complete blob were handed out by a store of that kind: ``"disk"`` or ``"redis"``."""

    def read_answered(self, model: str, tier: str, outcome: str) -> None:
        """A reader's wish for bytes has an answer, of which no byte is sent yet.

        Args:
            model: two segments.
            tier: the reader's, in small letters.
            outcome: ``"hit"``, ``"miss"``, ``"coalesced"`` (a fill was under way), ``"pass-through"`` or
                ``"redirect"``.
        """

    def redirected(self, model: str, count: int) -> None:
        """A reader was sent to a pre-signed URL for so many bytes."""

    def aliases_seen(self, model: str, aliases: Mapping[str, str]) -> None:
        """The aliases of a model mean these versions, ``latest`` included; none if it is gone."""

    def origin_retried(self, reason: str) -> None:
        """A request to the origin is sent again.

        Args:
            reason: ``"timeout"``, ``"throttled"``, ``"server-error"``, ``"connection"``,
                ``"broken-answer"``, ``"credentials"`` (they were reloaded).
        """

    def origin_failed(self, kind: str) -> None:
        """A request to the origin ended with an error, after its retries.

        Args:
            kind: ``"unreachable"``, ``"paused"`` (it was not asked), ``"denied"``, ``"changed"`` or
                ``"other"``.
        """

    def circuit_opened(self, is_open: bool) -> None:
        """The origin is left alone from now on, or no longer."""

    def refetched(self, model: str) -> None:
        """A piece arrived damaged and is fetched again."""

    def healed(self, model: str) -> None:
        """A blob that was not what its manifest says was removed, to be filled again."""

    def verified(self, count: int) -> None:
        """Bytes at rest were read to be compared with their digests."""

    def evicted(self, reason: str, count: int) -> None:
        """A blob of count bytes was removed; reason is ``"budget"``, ``"retired"`` or ``"asked"``."""

    def degraded(self, reasons: tuple[str, ...]) -> None:
        """What does not work has changed; empty when all works again."""


class NullObserver:
    """An observer that counts nothing."""

    def fill_started(self, model: str, size_bytes: int) -> None:
        """Ignore it."""

    def fill_ended(self, model: str, outcome: str, fetched_bytes: int, seconds: float) -> None:
        """Ignore it."""

    def origin_bytes(self, model: str, count: int) -> None:
        """Ignore it."""

    def answered(self, model: str, source: str, count: int) -> None:
        """Ignore it."""

    def store_read(self, kind: str, count: int) -> None:
        """Ignore it."""

    def read_answered(self, model: str, tier: str, outcome: str) -> None:
        """Ignore it."""

    def redirected(self, model: str, count: int) -> None:
        """Ignore it."""

    def aliases_seen(self, model: str, aliases: Mapping[str, str]) -> None:
        """Ignore it."""

    def origin_retried(self, reason: str) -> None:
        """Ignore it."""

    def origin_failed(self, kind: str) -> None:
        """Ignore it."""

    def circuit_opened(self, is_open: bool) -> None:
        """Ignore it."""

    def refetched(self, model: str) -> None:
        """Ignore it."""

    def healed(self, model: str) -> None:
        """Ignore it."""

    def verified(self, count: int) -> None:
        """Ignore it."""

    def evicted(self, reason: str, count: int) -> None:
        """Ignore it."""

    def degraded(self, reasons: tuple[str, ...]) -> None:
        """Ignore it."""
