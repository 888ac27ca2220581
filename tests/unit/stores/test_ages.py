"""How long a file has not changed, under clocks that are right and clocks that are set."""

from __future__ import annotations

import pytest

from hotstart_proxy.stores.ages import Ages
from hotstart_proxy.stores.system import System

DAY = 86_400.0


class Clocks(System):
    """Two clocks that stand still until they are moved."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.steady = 1000.0

    def wall_seconds(self) -> float:
        return self.wall

    def steady_seconds(self) -> float:
        return self.steady

    def pass_seconds(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def test_a_clock_that_is_right() -> None:
    """The age is what the time stamp says, also of what lay there before we came."""
    clocks = Clocks()
    ages = Ages(clocks)
    changed_at = clocks.wall - 500
    assert ages.idle_seconds("a", changed_at) == 500
    clocks.pass_seconds(10)
    assert ages.idle_seconds("a", changed_at) == 510
    assert ages.idle_seconds("a", clocks.wall) == 0


@pytest.mark.parametrize("jump", [3 * DAY, -3 * DAY])
def test_a_clock_that_is_set(jump: float) -> None:
    """After the clock was set by days, forward or back, a file is as old as it was watched."""
    clocks = Clocks()
    ages = Ages(clocks)
    changed_at = clocks.wall - 500
    clocks.wall += jump
    assert ages.idle_seconds("a", changed_at) == 0
    clocks.pass_seconds(100)
    assert ages.idle_seconds("a", changed_at) == 100
    assert ages.idle_seconds("a", changed_at + 50) == 0


def test_a_clock_that_is_kept_right() -> None:
    """Small corrections of the clock change nothing."""
    clocks = Clocks()
    ages = Ages(clocks)
    clocks.wall += 5
    assert ages.idle_seconds("a", clocks.wall - 500) == 500


def test_a_file_of_the_future() -> None:
    """A file that is dated later than now, by a clock that was wrong then, grows old all the same."""
    clocks = Clocks()
    ages = Ages(clocks)
    changed_at = clocks.wall + 365 * DAY
    assert ages.idle_seconds("a", changed_at) == 0
    clocks.pass_seconds(DAY)
    assert ages.idle_seconds("a", changed_at) == DAY


def test_what_is_gone_is_not_watched() -> None:
    """A file that comes again under its name is not as old as the one before."""
    clocks = Clocks()
    ages = Ages(clocks)
    changed_at = clocks.wall + DAY
    ages.idle_seconds("a", changed_at)
    clocks.pass_seconds(100)
    ages.forget_others(["b"])
    assert ages.idle_seconds("a", changed_at) == 0
