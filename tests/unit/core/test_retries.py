"""Retries: attempts, pauses and patience of one request to the origin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hotstart_proxy.core.retries import Retries, RetryPolicy

POLICY = RetryPolicy(attempts=6, patience_seconds=30)


def most() -> float:
    return 1.0


def test_pauses_double_up_to_a_bound() -> None:
    """The bound of the pauses doubles with every failure until it is the longest; the last gives up."""
    retries = Retries(RetryPolicy(attempts=8, patience_seconds=30, longest_pause_seconds=1.0), most)
    pauses = [retries.pause_after_failure() for _ in range(8)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, None]


def test_jitter_is_full() -> None:
    """Between no pause and the whole bound everything may come, as chance says."""
    chance = [0.0, 0.25, 1.0]
    retries = Retries(POLICY, lambda: chance.pop(0))
    assert [retries.pause_after_failure() for _ in range(3)] == [0.0, 0.05, 0.4]


def test_attempts_count_anew_after_progress() -> None:
    """A mebibyte between two failures begins the counting anew; a byte does not."""
    retries = Retries(POLICY, most)
    for _ in range(4):
        assert retries.pause_after_failure() is not None
    retries.waited(0.1, 1)
    assert retries.pause_after_failure() == 1.6
    retries.waited(0.1, POLICY.progress_bytes)
    assert retries.pause_after_failure() == 0.1


def test_what_the_origin_asks_for_is_kept() -> None:
    """A pause that the origin asked for is kept, and the jitter comes on top."""
    assert Retries(POLICY, most).pause_after_failure(2.0) == 2.1


def test_a_pause_longer_than_the_patience_is_not_begun() -> None:
    """An origin that asks for more time than is left is not asked again."""
    retries = Retries(POLICY, most)
    retries.waited(25)
    assert retries.pause_after_failure(4.0) == 4.1
    assert retries.pause_after_failure(5.0) is None


def test_silence_ends() -> None:
    """Without bytes the patience is over after its seconds."""
    retries = Retries(POLICY, most)
    retries.waited(31)
    assert retries.patience_seconds == 0
    assert retries.pause_after_failure() is None


def test_bytes_buy_patience() -> None:
    """What arrives at the slowest rate or faster keeps the patience; never is there more than at first."""
    retries = Retries(POLICY, most)
    for _ in range(100):
        retries.waited(1, 32 * 1024)
    assert retries.patience_seconds == 30
    retries.waited(0, 2**30)
    assert retries.patience_seconds == 30


@given(
    waits=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2**20)), max_size=200),
    size=st.integers(0, 2**24),
)
def test_the_whole_has_a_bound(waits: list[tuple[float, int]], size: int) -> None:
    """All waits of a request together are at most its patience and its size at the slowest rate."""
    retries = Retries(POLICY, most)
    waited, received = 0.0, 0
    for seconds, count in waits:
        count = min(count, size - received)
        # As the owner does: no wait is longer than the patience that is left.
        seconds = min(seconds, retries.patience_seconds)
        retries.waited(seconds, count)
        waited, received = waited + seconds, received + count
        assert 0 <= retries.patience_seconds <= POLICY.patience_seconds
    assert waited <= POLICY.patience_seconds + received / POLICY.slowest_bytes_per_second + 1e-6
