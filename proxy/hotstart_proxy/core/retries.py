"""Whether a request to the origin that failed is sent again, and when.

Three bounds hold whatever the origin does, and the first that is met ends the request:

- *Attempts* in a row without progress. An origin that gives some bytes and breaks, again and again, makes
  progress; one that gives a byte and breaks does not.
- *Patience*: seconds spent on waiting. Bytes that arrive buy patience back at the slowest rate that is worth
  waiting for, up to what there was at first. So silence ends after the patience, a trickle soon after, and
  the whole after patience + size / slowest rate. What the reader of the bytes takes is not counted.
- *Retry-After*: where the origin asks for a longer pause than the patience that is left, asking again is
  pointless.

Pauses are exponential with full jitter, uniform from 0 to a bound that doubles, so that clients that failed
together do not come back together. A pause that the origin asked for is kept, and the jitter comes on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Retries", "RetryPolicy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The bounds of one request.

    Attributes:
        attempts: in a row without progress, the first included; at least 1.
        patience_seconds: of waiting.
        first_pause_seconds: bound of the pause after the first failure; it doubles with each.
        longest_pause_seconds: where the doubling ends.
        progress_bytes: how many bytes between two failures begin the counting of attempts anew.
        slowest_bytes_per_second: the rate at which bytes that arrive buy patience back.
    """

    attempts: int
    patience_seconds: float
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 5.0
    progress_bytes: int = 1024 * 1024
    # Eight connections at this rate are a line of 2 Mbit/s; below, nobody waits for a model.
    slowest_bytes_per_second: float = 32 * 1024


class Retries:
    """The state of one request; whoever owns it waits, and says how long that took."""

    def __init__(self, policy: RetryPolicy, random: Callable[[], float]) -> None:
        """Begin.

        Args:
            policy: the bounds.
            random: returns a number from 0 to 1.
        """
        self._policy = policy
        self._random = random
        self._patience_seconds = policy.patience_seconds
        self._failures = 0
        self._bytes_since_failure = 0

    @property
    def patience_seconds(self) -> float:
        """Return how long may still be waited; never below 0."""
        return self._patience_seconds

    def waited(self, seconds: float, received_bytes: int = 0) -> None:
        """Note a wait, and what it brought."""
        bought = received_bytes / self._policy.slowest_bytes_per_second
        left = self._patience_seconds - seconds + bought
        self._patience_seconds = min(self._policy.patience_seconds, max(0.0, left))
        self._bytes_since_failure += received_bytes

    def pause_after_failure(self, retry_after_seconds: float | None = None) -> float | None:
        """Note a failure; return the pause before the next attempt, or None if there is to be none.

        Args:
            retry_after_seconds: what the origin asked for.
        """
        if self._bytes_since_failure >= self._policy.progress_bytes:
            self._failures = 0
        self._bytes_since_failure = 0
        self._failures += 1
        if self._failures >= self._policy.attempts:
            return None
        bound = self._policy.first_pause_seconds * 2.0 ** min(self._failures - 1, 30)
        jitter = self._random() * min(bound, self._policy.longest_pause_seconds)
        pause = (retry_after_seconds or 0.0) + jitter
        return pause if pause < self._patience_seconds else None
