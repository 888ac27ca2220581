"""When a request that brings nothing is asked for again."""

from __future__ import annotations

from hotstart.engine.patience import FLOOR_SECONDS, Patience


def test_it_follows_the_longest_wait_that_ended_well() -> None:
    """A second is the least; where waits of 2 s are ordinary, one of 7.9 s is too, and one of 8 s is not."""
    patience = Patience()
    patience.arrived(10.0, 10.01)
    assert patience.limit_seconds == FLOOR_SECONDS
    patience.arrived(10.0, 12.0)
    assert patience.limit_seconds == 8.0
    assert not patience.is_due(11.0, 18.9)
    assert patience.is_due(11.0, 19.0)


def test_it_waits_longer_where_nobody_receives_anything() -> None:
    """A source that gives nobody anything is slow: it is left alone for four times as long."""
    patience = Patience()
    assert not patience.is_due(5.0, 5.0 + 3.9 * FLOOR_SECONDS)
    assert patience.is_due(5.0, 5.0 + 4 * FLOOR_SECONDS)
    patience.arrived(5.0, 5.1)
    assert patience.is_due(5.0, 5.0 + FLOOR_SECONDS)


def test_hedges_that_do_not_help_end_it() -> None:
    """The first useless hedge doubles the limit, the second is the last."""
    patience = Patience()
    patience.hedged()
    patience.was_useless()
    assert patience.limit_seconds == 2 * FLOOR_SECONDS
    patience.hedged()
    patience.was_useless()
    assert patience.limit_seconds is None
    assert not patience.is_due(0.0, 1e9)


def test_hedges_are_few_though_they_help() -> None:
    """A transfer asks again at most eight times."""
    patience = Patience()
    for _ in range(8):
        assert patience.limit_seconds is not None
        patience.hedged()
    assert patience.limit_seconds is None
