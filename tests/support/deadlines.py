"""How long tests wait. One constant, stretched on slow machines by HOTSTART_TEST_TIME_SCALE."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["DEADLINE_SECONDS", "POLL_SECONDS", "TIME_SCALE", "DeadlineMissed", "wait_until"]

TIME_SCALE = float(os.environ.get("HOTSTART_TEST_TIME_SCALE", "1"))
# Longer than anything takes that works, shorter than the time-out of a test (pyproject.toml).
DEADLINE_SECONDS = 30.0 * TIME_SCALE
POLL_SECONDS = 0.01

T = TypeVar("T")


class DeadlineMissed(AssertionError):
    """Something that should have come about did not, in all the time it was given."""


def wait_until(
    what: str,
    look: Callable[[], T | None],
    seconds: float = DEADLINE_SECONDS,
    poll_seconds: float = POLL_SECONDS,
) -> T:
    """Look again and again until there is something to see, and return it.

    Args:
        what: completes the sentence "waited in vain for ...".
        look: returns something true once it is there.
        seconds: how long to look.
        poll_seconds: how long to pause between looks.

    Raises:
        DeadlineMissed: nothing came.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DeadlineMissed(f"waited in vain for {what}, {seconds:.0f} s long")
        time.sleep(poll_seconds)
