"""Who is used: per version, how often it was read from the store, and when; in memory, since the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["HeldVersion", "StoreView", "Uses"]


@dataclass(frozen=True, slots=True)
class HeldVersion:
    """What a store holds of one version, and how it was used by this process.

    Attributes:
        bytes: held of all its representations; what versions share counts in each.
        is_pinned: see ``pins``.
        hits: answers that came from the store, since the start.
        used_seconds_ago: since anything of it was last asked for; None if it was not, since the start.
        filled_seconds_ago: since a fill of it was last completed; None if none was, since the start.
    """

    bytes: int
    is_pinned: bool
    hits: int
    used_seconds_ago: float | None
    filled_seconds_ago: float | None


@dataclass(frozen=True, slots=True)
class StoreView:
    """What one store holds.

    Attributes:
        store: its URL.
        used_bytes: of all it holds, running fills included.
        budget_bytes: most that it may hold.
        models: what is held of them, by name and version; versions of which nothing is held are left out.
    """

    store: str
    used_bytes: int
    budget_bytes: int
    models: Mapping[str, Mapping[str, HeldVersion]]


@dataclass(slots=True)
class _Use:
    hits: int = 0
    used_at: float | None = None
    filled_at: float | None = None


class Uses:
    """The counters of one cache."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with nothing used; now gives seconds that only rise."""
        self._now = now
        self._uses: dict[tuple[str, str], _Use] = {}

    def _of(self, model: str, version: str) -> _Use:
        return self._uses.setdefault((model, version), _Use())

    def read(self, model: str, version: str, *, is_hit: bool) -> None:
        """Count an answer; is_hit: it came from the store."""
        use = self._of(model, version)
        use.used_at = self._now()
        use.hits += is_hit

    def filled(self, model: str, version: str) -> None:
        """Note that a blob of a version was filled."""
        self._of(model, version).filled_at = self._now()

    def view(self, model: str, version: str, held_bytes: int, *, is_pinned: bool) -> HeldVersion:
        """Return how a version was used, beside what is held of it."""
        use = self._uses.get((model, version), _Use())
        return HeldVersion(held_bytes, is_pinned, use.hits, self._ago(use.used_at), self._ago(use.filled_at))

    def _ago(self, moment: float | None) -> float | None:
        return None if moment is None else round(self._now() - moment, 3)
