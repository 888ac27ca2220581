"""The circuit breaker: an origin that fails again and again is left alone for a while.

The states, and what moves between them::

    CLOSED ---failed, the last of so many in a row---> OPEN
    OPEN ------the pause is over---------------------> DUE
    DUE -------admit---------------------------------> PROBING
    PROBING ---succeeded-----------------------------> CLOSED
    PROBING ---failed--------------------------------> OPEN, for longer
    PROBING ---abandoned-----------------------------> DUE

- CLOSED admits everybody. A success in between begins the counting of failures anew.
- OPEN and PROBING admit nobody: callers answer from what they have.
- DUE admits one, the probe; what comes of it decides.
- What was admitted before the last change of state says nothing about the present one, and is not counted:
  a hundred requests that hang together and fail together open the circuit once.

The pause doubles from probe to probe. Its second half is jitter, so that proxies that lost an origin together
do not ask it together. Where the origin said for how long it wants to be left alone, the pause is at least
that. Whoever changes this table changes the state machine in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Breaker", "BreakerSettings", "Circuit", "Phase"]


class Phase(StrEnum):
    """The states."""

    CLOSED = "closed"
    OPEN = "open"
    DUE = "due"
    PROBING = "probing"


@dataclass(frozen=True, slots=True)
class Circuit:
    """How a request of this moment would fare, for whoever can answer without one.

    Attributes:
        phase: of the circuit.
        failures: requests that failed in a row.
        retry_after_seconds: how long nobody will be admitted, as far as that is known.
    """

    phase: Phase = Phase.CLOSED
    failures: int = 0
    retry_after_seconds: float = 0.0

    @property
    def refuses(self) -> bool:
        """Tell whether the request would not be sent, or wait for what the probe shows."""
        return self.phase in (Phase.OPEN, Phase.PROBING)


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When it opens, and for how long.

    Attributes:
        failures: in a row, each after the request's own retries, that open it.
        first_pause_seconds: until the first probe.
        longest_pause_seconds: where the doubling ends; also the most that Retry-After may ask for.
    """

    # More than one fill has connections would take long to notice; fewer would open for one bad object.
    failures: int = 5
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 60.0


class Breaker:
    """One origin's circuit; whoever owns it asks before each request and reports after it."""

    def __init__(self, settings: BreakerSettings, random: Callable[[], float]) -> None:
        """Begin closed.

        Args:
            settings: see there.
            random: returns a number from 0 to 1.
        """
        self._settings = settings
        self._random = random
        self._failures = 0
        # Until when nobody is admitted; None while closed.
        self._open_until: float | None = None
        self._probing = False
        self._pauses = 0
        # Of the state; tickets of an earlier one are void.
        self._generation = 0

    def circuit(self, now: float) -> Circuit:
        """Return how a request would fare now (now as in phase)."""
        return Circuit(self.phase(now), self._failures, self.retry_after_seconds(now))

    def phase(self, now: float) -> Phase:
        """Return the state.

        Args:
            now: seconds, of any clock that never goes back.
        """
        if self._open_until is None:
            return Phase.CLOSED
        if self._probing:
            return Phase.PROBING
        return Phase.OPEN if now < self._open_until else Phase.DUE

    def retry_after_seconds(self, now: float) -> float:
        """Return how long it will admit nobody, as far as that is known: a probe may end at any time."""
        match self.phase(now):
            case Phase.OPEN:
                assert self._open_until is not None
                return self._open_until - now
            case Phase.PROBING:
                return self._settings.first_pause_seconds
            case _:
                return 0.0

    def admit(self, now: float) -> int | None:
        """Let a request pass and return its ticket, to report with once; None: it must not be sent."""
        phase = self.phase(now)
        if phase in (Phase.OPEN, Phase.PROBING):
            return None
        if phase is Phase.DUE:
            self._probing = True
            self._generation += 1
        return self._generation

    def succeeded(self, ticket: int) -> None:
        """Note that the origin answered, whatever it said."""
        if ticket != self._generation:
            return
        self._failures = 0
        if self._probing:
            self._probing = False
            self._open_until = None
            self._pauses = 0
            self._generation += 1

    def failed(self, ticket: int, now: float, retry_after_seconds: float | None = None) -> None:
        """Note that the origin did not answer.

        Args:
            ticket: from admit.
            now: as in phase.
            retry_after_seconds: for how long the origin wants to be left alone; None if it did not say.
        """
        if ticket != self._generation:
            return
        self._failures += 1
        if self._probing or self._failures >= self._settings.failures:
            self._probing = False
            self._open_until = now + self._pause(retry_after_seconds)
            self._pauses += 1
            self._generation += 1

    def abandoned(self, ticket: int) -> None:
        """Note that a request ended without showing anything: whoever wanted it has gone."""
        if ticket == self._generation and self._probing:
            self._probing = False
            self._generation += 1

    def _pause(self, retry_after_seconds: float | None) -> float:
        longest = self._settings.longest_pause_seconds
        full = min(longest, self._settings.first_pause_seconds * 2.0 ** min(self._pauses, 30))
        return max(full * (1 + self._random()) / 2, min(retry_after_seconds or 0.0, longest))
