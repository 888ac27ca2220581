"""When workers are started, replaced and given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart_proxy.core.supervision import Supervision


def established(count: int, now: float = 0.0) -> Supervision:
    """Return the state in which all workers serve."""
    state = Supervision(count)
    while not state.established:
        for number in state.due(now):
            state.started(number)
            state.serving(number, now)
    return state


def live_shortly(state: Supervision, number: int, now: float) -> float | None:
    """Let a worker start, serve for a second and end; return the pause after it."""
    assert number in state.due(now)
    state.started(number)
    state.serving(number, now)
    return state.ended(number, now + 1)


def test_the_first_goes_alone() -> None:
    """The others start once the first serves, and only the last to serve completes the start."""
    state = Supervision(3)
    assert state.due(0) == [1]
    state.started(1)
    assert (state.due(0), state.next_start()) == ([], None)
    assert not state.serving(1, 1.0)
    assert state.due(1.0) == [2, 3]
    state.started(2)
    state.started(3)
    assert not state.serving(3, 1.1)
    assert state.serving(2, 1.2)
    assert state.established


@pytest.mark.parametrize("failing", [1, 2])
def test_a_start_that_fails_is_the_end(failing: int) -> None:
    """A worker that ends before all have served is not tried again, and the others are to end."""
    state = Supervision(2)
    state.started(1)
    if failing == 2:
        state.serving(1, 0)
        state.started(2)
    assert state.ended(failing, 1.0) is None
    assert state.failed
    assert state.due(1e9) == []
    assert state.over == (failing == 1)
    if failing == 2:
        assert state.ended(1, 2.0) is None
        assert state.over


def test_a_worker_that_served_for_long_is_replaced_at_once() -> None:
    """However often that happens, with hours between, it is at once."""
    state = established(2)
    for hour in range(1, 20):
        now = hour * 3600.0
        assert state.ended(2, now) == 0
        assert state.due(now) == [2]
        state.started(2)
        assert not state.serving(2, now + 0.1)


def test_short_lives_are_followed_by_growing_pauses() -> None:
    """The first replacement is at once, then pauses double up to half a minute; a steady life ends that."""
    state = established(2)
    pauses = [state.ended(1, 1.0)]
    now = 1.0
    for _ in range(9):
        now += pauses[-1] or 0.0
        pauses.append(live_shortly(state, 1, now))
        now += 1
    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert state.next_start() == now + 30
    assert state.due(now + 29) == []
    state.started(1)
    state.serving(1, now + 30)
    assert state.ended(1, now + 100) == 0


def test_one_bad_worker_is_no_reason_to_give_up() -> None:
    """While another serves, the proxy goes on."""
    state = established(2)
    now = 1.0
    state.ended(1, now)
    for _ in range(50):
        now += 60
        live_shortly(state, 1, now)
    assert not state.failed


def test_none_stays_up() -> None:
    """When all of them keep ending, the proxy gives up instead of trying for ever."""
    state = established(2)
    now = 1.0
    for number in (1, 2):
        assert state.ended(number, now) == 0
    lives = 1
    while not state.failed:
        now += 40
        for number in (1, 2):
            if not state.failed:
                state.started(number)
                state.ended(number, now)
        lives += 1
    assert lives == 5
    assert state.over


def test_told_to_end() -> None:
    """Then nothing is started, and it is over when the last has ended, whatever it ended with."""
    state = established(2)
    state.told = True
    assert state.ended(1, 1.0) is None
    assert not state.over
    assert state.ended(2, 1.0) is None
    assert state.over
    assert not state.failed


def test_told_to_end_before_anything_started() -> None:
    """A signal that comes first of all ends it."""
    state = Supervision(4)
    state.told = True
    assert state.over
    assert state.due(0) == []


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 3), st.floats(0, 40)), max_size=60))
def test_no_worker_runs_twice(count: int, events: list[tuple[int, float]]) -> None:
    """Whatever ends when: what is due is not running, and it is over only when nothing runs."""
    state = Supervision(count)
    running: set[int] = set()
    now = 0.0
    for kind, seconds in events:
        now += seconds
        due = state.due(now)
        assert not running.intersection(due)
        for number in due:
            state.started(number)
            running.add(number)
        if running:
            number = sorted(running)[kind % len(running)]
            if kind % 2:
                state.serving(number, now)
            else:
                running.remove(number)
                pause = state.ended(number, now)
                assert (pause is None) == state.ending
        assert not (state.over and running)
        moment = state.next_start()
        assert moment is None or state.due(moment)
