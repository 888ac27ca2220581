"""What does not work at the moment, as far as the cache has met it."""

from __future__ import annotations

from collections.abc import Callable

from hotstart_proxy.core.observer import Observer
from hotstart_proxy.origins.base import OriginBusy, OriginError
from hotstart_proxy.stores.base import BlobBusy, NeverFits, NoSpaceNow, StoreError, Vanished

__all__ = ["Condition"]


class Condition:
    """The last word of the origin and of the store; the observer is told when the whole changes."""

    def __init__(self, observer: Observer, trouble: Callable[[], str | None]) -> None:
        """Begin with what the store says.

        Args:
            observer: told of changes.
            trouble: the store's own word, which comes and goes by itself.
        """
        self._observer = observer
        self._trouble = trouble
        self._origin: str | None = None
        self._store: str | None = None
        self._full: str | None = None
        self._notes: dict[str, tuple[str, ...]] = {}
        self._told: tuple[str, ...] = ()

    @property
    def origin_away(self) -> bool:
        """Tell whether the last try of the origin failed."""
        return self._origin is not None

    @property
    def degraded(self) -> tuple[str, ...]:
        """Return what does not work, in words."""
        trouble = self._trouble()
        told = trouble if trouble is None else f"the store does not work: {trouble}"
        own = [reason for reason in (self._origin, told, self._store, self._full) if reason is not None]
        return (*own, *(reason for reasons in self._notes.values() for reason in reasons))

    def origin_failed(self, error: OriginError) -> None:
        """Note that the origin did not answer; one that is only busy did."""
        if isinstance(error, OriginBusy):
            return
        self._origin = f"the origin is away: {error}"
        self._tell()

    def origin_answered(self) -> None:
        """Note that the origin answered."""
        self._origin = None
        self._tell()

    def store_failed(self, error: StoreError) -> None:
        """Note that the store refused: for want of space, or because it fails."""
        if isinstance(error, BlobBusy | Vanished):
            # A neighbour on the same store is at work, or the store has lost something and knows.
            return
        if isinstance(error, NoSpaceNow | NeverFits):
            self._full = f"the store is full: {error}"
        elif self._trouble() is None:
            self._store = f"the store fails: {error}"
        # Else the store says it itself, as long as it lasts, where we would go on until the next commit.
        self._tell()

    def store_worked(self) -> None:
        """Note that a blob was committed."""
        self._store = None
        self._full = None
        self._tell()

    def note(self, subject: str, reasons: tuple[str, ...]) -> None:
        """Note what somebody else has found not to work; it stands until the subject is noted anew."""
        self._notes[subject] = reasons
        self._tell()

    def look(self) -> tuple[str, ...]:
        """Return what does not work, after a look at what may have changed by itself."""
        self._tell()
        return self._told

    def _tell(self) -> None:
        if self.degraded != self._told:
            self._told = self.degraded
            self._observer.degraded(self._told)
