"""What is fetched ahead of readers that go through a blob in order, and never of others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hotstart_proxy.core.foresight import Foresight


def test_one_range_is_no_way_through_a_blob() -> None:
    """Nothing is fetched ahead of a single range, however long it is."""
    assert not Foresight(100).asked(range(50))


def test_ranges_that_follow_one_another_are_fetched_ahead_of() -> None:
    """Once two ranges were asked for in order, so many pieces are fetched ahead of the last."""
    foresight = Foresight(100)
    assert not foresight.asked(range(2))
    assert foresight.asked(range(2, 4)) == range(4, 104)
    assert foresight.asked(range(4, 6)) == range(6, 106)


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
    assert foresight.asked(range(4, 6)) == range(8, 108)
    assert foresight.asked(range(2)) == range(8, 108)


def test_frames_that_share_a_piece_follow_one_another() -> None:
    """Ranges whose borders are none of pieces' overlap in one piece."""
    foresight = Foresight(100)
    foresight.asked(range(3))
    assert foresight.asked(range(2, 5)) == range(5, 105)


def test_asking_again_adds_nothing() -> None:
    """A second reader behind the first causes nothing new."""
    foresight = Foresight(100)
    foresight.asked(range(2))
    foresight.asked(range(2, 4))
    assert not foresight.asked(range(2))
    assert not foresight.asked(range(1, 3))
    assert not foresight.asked(range(0))


def test_readers_here_and_there_cost_nothing() -> None:
    """Ranges that do not touch are fetched alone, however many there are."""
    foresight = Foresight(100)
    assert not any(foresight.asked(range(start, start + 5)) for start in range(0, 1000, 10))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), max_size=30))
def test_no_piece_is_far_from_what_was_asked(asked: list[tuple[int, int]]) -> None:
    """Whatever the readers do, what is fetched ahead lies right behind something that was asked for."""
    foresight = Foresight(5)
    stops: set[int] = set()
    for start, length in asked:
        stops.add(start + length)
        ahead = foresight.asked(range(start, start + length))
        assert not ahead or (ahead.start in stops and len(ahead) == 5)
