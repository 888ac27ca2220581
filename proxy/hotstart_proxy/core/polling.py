"""When which model's index is asked for again, whether or not anybody needs it.

Polls are spread over the interval, so that a thousand models make a steady trickle and no bursts. While the
origin is away, one poll in a growing while finds out when it is back; a model whose index alone is faulty
waits by itself.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Learned", "Poll", "PollSchedule"]

# Of all models together. A conditional request costs a proxy under a millisecond of CPU and, at S3's prices,
# 50 a second about 2 dollars a day; beyond that the interval stretches instead.
MOST_A_SECOND = 50.0
# However many messages say that a model has news, it is asked for no more often than this.
LEAST_SECONDS_BETWEEN = 1.0
MOST_BACKOFF_SECONDS = 60.0
# The part of an interval by which a poll may come early: proxies that started together drift apart.
_JITTER = 0.1


class Learned(StrEnum):
    """How a proxy came to look at an index: by itself, told by whom, or for a reader."""

    POLL = "poll"
    PUBSUB = "pubsub"
    NOTIFY = "notify"
    SQS = "sqs"
    READER = "reader"


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask for this model's index now.

    Attributes:
        learned: why.
    """

    model: str
    learned: Learned


@dataclass(slots=True)
class _Turn:
    """One model's place in the schedule.

    Attributes:
        due: when it is to be polled.
        begun: when it last was.
        hint: who says that there is news, until the next poll begins.
        in_flight: it is being polled.
        failures: how often in a row it failed by its own fault.
    """

    due: float
    begun: float = float("-inf")
    hint: Learned | None = None
    in_flight: bool = False
    failures: int = 0


@dataclass(slots=True)
class PollSchedule:
    """The models that are polled. Times are seconds of a clock that never goes back.

    Attributes:
        interval_seconds: between two polls of a model; infinity to poll what is hinted at alone.
        random: gives numbers from 0 to 1.
    """

    interval_seconds: float
    random: Callable[[], float]
    _turns: dict[str, _Turn] = field(default_factory=dict)
    # (due, model); an entry whose due is not its model's any more is passed over.
    _heap: list[tuple[float, str]] = field(default_factory=list)
    _in_flight: int = 0
    _outages: int = 0
    _paused_until: float = 0.0

    def __contains__(self, model: str) -> bool:
        return model in self._turns

    def __len__(self) -> int:
        return len(self._turns)

    def add(self, model: str, now: float, *, at_once: bool = False) -> None:
        """Poll a model from now on; one that is known already is left alone."""
        if model not in self._turns:
            self._turns[model] = turn = _Turn(now)
            self._set_due(model, turn, now if at_once else now + (1 - self.random()) * self._interval())

    def remove(self, model: str) -> None:
        """Poll it no more."""
        turn = self._turns.pop(model, None)
        if turn is not None and turn.in_flight:
            self._in_flight -= 1

    def hint(self, model: str, now: float, learned: Learned) -> bool:
        """Poll a model as soon as may be: somebody says that there is news; False if it is not polled."""
        turn = self._turns.get(model)
        if turn is None:
            return False
        turn.hint = learned
        if not turn.in_flight:
            self._set_due(model, turn, min(turn.due, max(now, turn.begun + LEAST_SECONDS_BETWEEN)))
        return True

    def take(self, now: float) -> Poll | None:
        """Return what to poll now, which is in flight then; None if nothing is due."""
        due = self._next_due()
        if due is None or due > now or (self._outages and (self._in_flight or now < self._paused_until)):
            return None
        model = heapq.heappop(self._heap)[1]
        turn = self._turns[model]
        learned, turn.hint = turn.hint or Learned.POLL, None
        turn.in_flight = True
        turn.begun = now
        self._in_flight += 1
        return Poll(model, learned)

    def answered(self, model: str, now: float) -> None:
        """Take note that a poll was answered."""
        self._outages = 0
        self._landed(model, now, failures=0)

    def failed(self, model: str, now: float, *, origin_away: bool) -> None:
        """Take note that a poll failed: for all models, or by this one's own fault."""
        turn = self._turns.get(model)
        if origin_away:
            self._outages += 1
            self._paused_until = now + self._backoff(self._outages)
        if turn is not None:
            self._landed(model, now, failures=turn.failures + (not origin_away))

    def _landed(self, model: str, now: float, failures: int) -> None:
        turn = self._turns.get(model)
        if turn is None or not turn.in_flight:
            return
        turn.in_flight = False
        turn.failures = failures
        self._in_flight -= 1
        if turn.hint is not None or self._outages:
            due = max(now, turn.begun + LEAST_SECONDS_BETWEEN)
        elif failures:
            due = now + self._backoff(failures)
        else:
            due = now + self._interval() * (1 - _JITTER * self.random())
        self._set_due(model, turn, due)

    def next_at(self) -> float | None:
        """Return when take is worth a call; None if not before something else happens."""
        due = self._next_due()
        if due is None or due == math.inf:
            return None
        if not self._outages:
            return due
        # One poll at a time while the origin is away: what it comes to decides what is next.
        return None if self._in_flight else max(due, self._paused_until)

    def _next_due(self) -> float | None:
        while self._heap:
            due, model = self._heap[0]
            turn = self._turns.get(model)
            if turn is not None and not turn.in_flight and turn.due == due:
                return due
            heapq.heappop(self._heap)
        return None

    def _set_due(self, model: str, turn: _Turn, due: float) -> None:
        turn.due = due
        heapq.heappush(self._heap, (due, model))

    def _interval(self) -> float:
        return max(self.interval_seconds, len(self._turns) / MOST_A_SECOND)

    def _backoff(self, failures: int) -> float:
        first = min(self.interval_seconds, MOST_BACKOFF_SECONDS)
        seconds = min(MOST_BACKOFF_SECONDS, first * 2.0 ** min(failures - 1, 30))
        return seconds * (1 - 0.5 * self.random())
