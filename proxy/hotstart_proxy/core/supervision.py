"""When the workers of a proxy are started, started again, and given up.

Until every worker has served once, the proxy is starting: the first worker goes alone, since what is wrong
with the settings or the store would be wrong for all of them, and any that ends is the end of the start.
After that a worker that ends is replaced: at once if it had served for a while, or if this is its first short
life, and then after growing pauses. When none serves and all of them keep ending, the proxy gives up, so that
whoever runs it sees that.

::

    starting ──all have served──▶ established ──none stays up──▶ failed
        │                              │                           ▲
        ├──────── one ends ────────────┼───────────────────────────┘
        └────────── told ──────────────┴──▶ told: nothing is started any more
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Supervision"]

# A worker that served this long ended for a reason of its own, not because it cannot serve.
_STEADY_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.5
# As long as one of a file system's or network's bad minutes is worth waiting between two tries.
_LONGEST_PAUSE_SECONDS = 30.0
# Of every worker, one after the other: about eight seconds of trying.
_SHORT_LIVES_TO_GIVE_UP = 5


@dataclass(slots=True)
class _Worker:
    running: bool = False
    serving: bool = False
    since: float = 0.0
    short_lives: int = 0
    start_at: float = 0.0

    def pause_seconds(self) -> float:
        if self.short_lives <= 1:
            return 0.0
        return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(self.short_lives - 2, 30))


class Supervision:
    """The state of all workers of one proxy, which are numbered from 1. Times are seconds of any one clock.

    Attributes:
        established: every worker has served once.
        failed: the proxy cannot go on; what still runs is to end.
        told: the proxy was told to end.
    """

    def __init__(self, count: int) -> None:
        self._workers = {number: _Worker() for number in range(1, count + 1)}
        self._have_served: set[int] = set()
        self.established = False
        self.failed = False
        self.told = False

    @property
    def ending(self) -> bool:
        """Nothing is started any more."""
        return self.told or self.failed

    @property
    def over(self) -> bool:
        """All that was running has ended, and nothing will be started."""
        return self.ending and not any(worker.running for worker in self._workers.values())

    def due(self, now: float) -> Sequence[int]:
        """Return the workers to start now."""
        return [number for number in self._startable() if self._workers[number].start_at <= now]

    def next_start(self) -> float | None:
        """Return when the next worker is to be started; None if none is, as things stand."""
        return min((self._workers[number].start_at for number in self._startable()), default=None)

    def _startable(self) -> Sequence[int]:
        if self.ending:
            return []
        numbers = self._workers if self._have_served else [1]
        return [number for number in numbers if not self._workers[number].running]

    def started(self, number: int) -> None:
        """A worker is being started."""
        self._workers[number].running = True

    def serving(self, number: int, now: float) -> bool:
        """A worker has begun to serve; tell whether with it all have, for the first time."""
        worker = self._workers[number]
        worker.serving, worker.since = True, now
        self._have_served.add(number)
        complete = not self.established and len(self._have_served) == len(self._workers)
        self.established = self.established or complete
        return complete

    def ended(self, number: int, now: float) -> float | None:
        """A worker is gone; return after how many seconds it is started again, None if it is not."""
        worker = self._workers[number]
        steady = worker.serving and now - worker.since >= _STEADY_SECONDS
        worker.running = worker.serving = False
        worker.short_lives = 0 if steady else worker.short_lives + 1
        worker.start_at = now + worker.pause_seconds()
        if not self.told and (not self.established or self._hopeless()):
            self.failed = True
        return None if self.ending else worker.start_at - now

    def _hopeless(self) -> bool:
        return all(
            not worker.serving and worker.short_lives >= _SHORT_LIVES_TO_GIVE_UP
            for worker in self._workers.values()
        )
