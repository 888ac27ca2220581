"""What is fetched ahead of readers that go through a blob in order, and never of others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hotstart_proxy.core.foresight import Foresight


def test_one_range_is_no_way_through_a_blob() -> None:
    """Nothing is fetched ahead of a single range, however long it is."""
    assert not Foresight(100).asked(range(50))


def test_ranges_that_follow_one_another_are_fetched_ahead_of() -> None:
    """As much again as was asked for in order, so that twice what was asked is the most that is fetched."""
    foresight = Foresight(100)
    assert not foresight.asked(range(2))
    assert foresight.asked(range(2, 4)) == range(4, 8)
    assert foresight.asked(range(4, 6)) == range(6, 12)


def test_two_small_neighbours_are_not_enough() -> None:
    """A header and the tensor behind it, or two tensors side by side, are fetched alone."""
    foresight = Foresight(100)
    assert not foresight.asked(range(1))
    assert not foresight.asked(range(1, 3))


def test_the_order_of_arrival_does_not_matter() -> None:
    """Requests of several connections overtake one another."""
    foresight = Foresight(100)
    assert not foresight.asked(range(6, 8))
    assert not foresight.asked(range(2, 4))
    assert foresight.asked(range(4, 6)) == range(8, 14)
    assert foresight.asked(range(2)) == range(8, 16)


def test_frames_that_share_a_piece_follow_one_another() -> None:
    """Ranges whose borders are none of pieces' overlap in one piece."""
    foresight = Foresight(100)
    foresight.asked(range(3))
    assert foresight.asked(range(2, 5)) == range(5, 10)


def test_asking_again_adds_nothing() -> None:
    """A second reader behind the first causes nothing new."""
    foresight = Foresight(100)
    foresight.asked(range(2))
    foresight.asked(range(2, 4))
    assert not foresight.asked(range(2))
    assert not foresight.asked(range(1, 3))
    assert not foresight.asked(range(0))


def test_there_is_a_limit() -> None:
    """No more pieces ahead than the limit, however long the way was."""
    foresight = Foresight(3)
    foresight.asked(range(10))
    assert foresight.asked(range(10, 20)) == range(20, 23)


def test_readers_here_and_there_cost_nothing() -> None:
    """Ranges that do not touch are fetched alone, however many there are."""
    foresight = Foresight(100)
    assert not any(foresight.asked(range(start, start + 5)) for start in range(0, 1000, 10))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), max_size=30))
def test_never_more_than_twice(asked: list[tuple[int, int]]) -> None:
    """What is fetched ahead never exceeds what was asked for, whatever the readers do."""
    foresight = Foresight(1000)
    wanted: set[int] = set()
    ahead: set[int] = set()
    for start, length in asked:
        wanted.update(range(start, start + length))
        ahead.update(foresight.asked(range(start, start + length)))
    assert len(ahead - wanted) <= len(wanted)
