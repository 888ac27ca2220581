"""Which versions are filled before anyone asks, in which order, and when what failed is tried again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from hotstart.wire.index import Index, IndexEntry

from .polling import Learned

__all__ = ["Arrival", "ArrivalObserver", "WarmQueue", "arrivals"]

MOST_BACKOFF_SECONDS = 600.0
# A version that fits the budget, but not beside what is pinned or in use, may fit later; not for ever.
TRIES_WITHOUT_ROOM = 3


@dataclass(frozen=True, slots=True)
class Arrival:
    """A version to be filled.

    Attributes:
        model: two segments.
        version: its id.
        published_at: milliseconds since the epoch.
        default: what the model means when no version is said.
        published: it is new; False: an alias has moved to it.
    """

    model: str
    version: str
    published_at: int
    default: bool = False
    published: bool = True


def arrivals(before: Index, after: Index, kept: Collection[str]) -> tuple[Arrival, ...]:
    """Return what has arrived from one index of a model to the next, the most wanted first.

    Args:
        before: as it was last seen.
        after: as it is.
        kept: the versions that are kept; others are never filled.
    """
    known = {entry.version: entry for entry in before.versions}
    moved = {target for alias, target in after.aliases.items() if before.aliases.get(alias) != target}
    default = after.resolve(None)
    found = []
    for entry in after.versions:
        published = _is_other(known.get(entry.version), entry)
        if entry.version in kept and (published or entry.version in moved):
            found.append(
                Arrival(after.model, entry.version, entry.published_at, entry.version == default, published)
            )
    return tuple(sorted(found, key=_urgency))


def _is_other(before: IndexEntry | None, after: IndexEntry) -> bool:
    if before is None or before.published_at != after.published_at:
        return True
    # Older entries lose their manifest's id as newer ones come.
    return None not in (before.manifest_id, after.manifest_id) and before.manifest_id != after.manifest_id


def _urgency(arrival: Arrival) -> tuple[bool, int, str, str]:
    return (not arrival.default, -arrival.published_at, arrival.model, arrival.version)


@dataclass(slots=True)
class _Turn:
    """One version that waits or is being filled."""

    arrival: Arrival
    not_before: float
    running: bool = False
    failures: int = 0
    without_room: int = 0


@dataclass(slots=True)
class WarmQueue:
    """The versions that are to be filled. Times are seconds of a clock that never goes back.

    Attributes:
        retry_seconds: after a first failure; doubled with each.
        random: gives numbers from 0 to 1.
    """

    retry_seconds: float
    random: Callable[[], float]
    _turns: dict[tuple[str, str], _Turn] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._turns)

    def add(self, arrival: Arrival, now: float) -> None:
        """Let a version be filled; one that had failed is tried again at once."""
        key = (arrival.model, arrival.version)
        turn = self._turns.get(key)
        if turn is not None and turn.running:
            turn.arrival = arrival
        else:
            self._turns[key] = _Turn(arrival, now)

    def take(self, now: float) -> Arrival | None:
        """Return the most wanted version whose turn it is, which is running then."""
        ready = [turn for turn in self._turns.values() if not turn.running and turn.not_before <= now]
        if not ready:
            return None
        turn = min(ready, key=lambda turn: _urgency(turn.arrival))
        turn.running = True
        return turn.arrival

    def done(self, arrival: Arrival) -> bool:
        """Forget a version: it is here, or never will be; False if it has arrived once more meanwhile."""
        key = (arrival.model, arrival.version)
        turn = self._turns.get(key)
        if turn is not None and turn.arrival != arrival:
            turn.running = False
            return False
        self._turns.pop(key, None)
        return True

    def failed(self, arrival: Arrival, now: float, *, no_room: bool) -> float | None:
        """Take note of a failure; return in how many seconds it is tried again, or None: it is given up."""
        turn = self._turns.get((arrival.model, arrival.version))
        if turn is None:
            return None
        turn.running = False
        turn.failures += 1
        turn.without_room += no_room
        if turn.without_room >= TRIES_WITHOUT_ROOM:
            self.done(arrival)
            return None
        longest = max(MOST_BACKOFF_SECONDS, self.retry_seconds)
        seconds = min(longest, self.retry_seconds * 2.0 ** min(turn.failures - 1, 30))
        seconds *= 1 - 0.5 * self.random()
        turn.not_before = now + seconds
        return seconds

    def next_at(self) -> float | None:
        """Return when take is worth a call; None if nothing waits."""
        return min((turn.not_before for turn in self._turns.values() if not turn.running), default=None)


class ArrivalObserver(Protocol):
    """Told of arrivals as they happen, on the event loop; must return at once and raise nothing."""

    def version_arrived(self, model: str, learned: Learned) -> None:
        """A version that is kept was published, or an alias has moved to one."""

    def version_warmed(self, model: str, seconds: float) -> None:
        """A new version is here, so long after its publishing."""

    def warm_failed(self, model: str) -> None:
        """A fill that nobody asked for failed; it is tried again where that can help."""

    def awaited(self, missing: int, *, late: bool) -> None:
        """So many of the references that readiness waits for are not here; late: it waits no longer."""
