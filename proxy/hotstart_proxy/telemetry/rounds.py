"""Rounds of asking all workers for their metrics, as their parent sees them. Without I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .gathering import Across, Snapshot, cumulative, merge

__all__ = ["Reply", "Rounds", "Step"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker that asked for the whole is sent: its question's number, and the merged metrics."""

    worker: int
    question: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done now.

    Attributes:
        ask: workers to ask for their metrics.
        replies: to workers that had asked.
    """

    ask: tuple[int, ...]
    replies: tuple[Reply, ...]


@dataclass(slots=True)
class _Round:
    askers: list[tuple[int, int]]
    awaited: set[int]
    deadline: float
    answers: dict[int, Snapshot] = field(default_factory=dict)


class Rounds:
    """Who is asked, whose answers are in, and who waits for the whole.

    One round runs at a time. A question that comes meanwhile waits for the next: what was counted before a
    question is in its reply. A worker that let a round's deadline pass is not waited for again until it has
    answered; its last counts stay in the sums, and so do those of workers that are gone.
    """

    def __init__(
        self, own: Callable[[], Snapshot], rules: Mapping[str, Across], deadline_seconds: float
    ) -> None:
        """Begin with no workers.

        Args:
            own: gives the parent's own metrics.
            rules: as ``merge`` takes them.
            deadline_seconds: how long one round waits for answers.
        """
        self._own = own
        self._rules = rules
        self._deadline_seconds = deadline_seconds
        self._last: dict[int, Snapshot] = {}
        self._owing: set[int] = set()
        self._gone: Snapshot = ()
        self._waiting: list[tuple[int, int]] = []
        self._round: _Round | None = None

    @property
    def deadline(self) -> float | None:
        """When ``step`` must be called at the latest; None while no round runs."""
        return None if self._round is None else self._round.deadline

    def joined(self, worker: int) -> None:
        """A worker can be asked from now on; no two may ever have the same number."""
        self._last[worker] = ()

    def left(self, worker: int) -> None:
        """A worker is gone, and with it its questions."""
        self._gone = merge([self._gone, cumulative(self._last.pop(worker, ()))], self._rules)
        self._owing.discard(worker)
        self._waiting = [item for item in self._waiting if item[0] != worker]
        if self._round is not None:
            self._round.askers = [item for item in self._round.askers if item[0] != worker]
            self._round.awaited.discard(worker)
            self._round.answers.pop(worker, None)

    def asked(self, worker: int, question: int) -> None:
        """A worker wants the whole."""
        self._waiting.append((worker, question))

    def answered(self, worker: int, snapshot: Snapshot) -> None:
        """A worker has sent its metrics, late or unasked perhaps."""
        self._last[worker] = snapshot
        self._owing.discard(worker)
        if self._round is not None and worker in self._round.awaited:
            self._round.awaited.remove(worker)
            self._round.answers[worker] = snapshot

    def step(self, now: float) -> Step:
        """Finish the round if it is over, and begin the next if somebody waits; call after every event."""
        ask: list[int] = []
        replies: list[Reply] = []
        while True:
            if self._round is not None and (not self._round.awaited or now >= self._round.deadline):
                replies += self._finish(self._round)
                self._round = None
            if self._round is not None or not self._waiting:
                return Step(tuple(ask), tuple(replies))
            awaited = self._last.keys() - self._owing
            self._round = _Round(self._waiting, awaited, now + self._deadline_seconds)
            self._waiting = []
            self._owing |= awaited
            ask += sorted(awaited)

    def _finish(self, ended: _Round) -> list[Reply]:
        workers = [
            ended.answers[worker] if worker in ended.answers else cumulative(self._last[worker])
            for worker in sorted(self._last)
        ]
        whole = merge([*workers, self._own(), self._gone], self._rules)
        return [Reply(worker, question, whole) for worker, question in ended.askers]
