"""What does not work at the moment, as far as the cache has met it."""

from __future__ import annotations

from hotstart_proxy.core.observer import Observer
from hotstart_proxy.origins.base import OriginError
from hotstart_proxy.stores.base import BlobBusy, NeverFits, NoSpaceNow, StoreError

__all__ = ["Condition"]


class Condition:
    """The last word of the origin and of the store; the observer is told when the whole changes."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
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
    def store_failing(self) -> bool:
        """Tell whether the last try of the store failed."""
        return self._store is not None

    @property
    def degraded(self) -> tuple[str, ...]:
        """Return what does not work, in words."""
        own = [reason for reason in (self._origin, self._store, self._full) if reason is not None]
        return (*own, *(reason for reasons in self._notes.values() for reason in reasons))

    def origin_failed(self, error: OriginError) -> None:
        """Note that the origin did not answer."""
        self._origin = f"the origin is away: {error}"
        self._tell()

    def origin_answered(self) -> None:
        """Note that the origin answered."""
        self._origin = None
        self._tell()

    def store_failed(self, error: StoreError) -> None:
        """Note that the store refused: for want of space, or because it fails."""
        if isinstance(error, BlobBusy):
            # A neighbour on the same store is at work.
            return
        if isinstance(error, NoSpaceNow | NeverFits):
            self._full = f"the store is full: {error}"
        else:
            self._store = f"the store fails: {error}"
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

    def _tell(self) -> None:
        if self.degraded != self._told:
            self._told = self.degraded
            self._observer.degraded(self._told)
