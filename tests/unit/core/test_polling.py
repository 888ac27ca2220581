"""When models are polled."""

from __future__ import annotations

import math

from hotstart_proxy.core.polling import LEAST_SECONDS_BETWEEN, Learned, Poll, PollSchedule

INTERVAL = 10.0


def schedule(random: float = 0.5) -> PollSchedule:
    return PollSchedule(INTERVAL, lambda: random)


def everything_due(polls: PollSchedule, now: float) -> list[str]:
    """Take all that is due, answered at once."""
    taken = []
    while (poll := polls.take(now)) is not None:
        taken.append(poll.model)
        polls.answered(poll.model, now)
    return taken


def test_nothing_known_nothing_polled() -> None:
    """Without models there is nothing to do, now or later."""
    polls = schedule()
    assert polls.take(1e9) is None
    assert polls.next_at() is None


def test_a_model_is_polled_once_an_interval() -> None:
    """A model is polled within an interval, and again within an interval of the answer."""
    polls = schedule()
    polls.add("org/bert", 100.0)
    polls.add("org/bert", 100.0, at_once=True)
    assert polls.next_at() == 105.0
    assert polls.take(104.9) is None
    assert polls.take(105.0) == Poll("org/bert", Learned.POLL)
    assert polls.take(200.0) is None, "one poll of a model at a time"
    polls.answered("org/bert", 106.0)
    due = polls.next_at()
    assert due is not None
    assert 106 + 0.9 * INTERVAL <= due <= 106 + INTERVAL


def test_first_polls_are_spread() -> None:
    """A thousand models found at the start make no burst: they are due all over the interval."""
    numbers = iter(range(1000))
    polls = PollSchedule(INTERVAL, lambda: next(numbers) / 1000)
    for number in range(1000):
        polls.add(f"org/m{number}", 0.0)
    polls.random = lambda: 0.5
    assert 0 < len(everything_due(polls, 1.0)) <= 105


def test_many_models_stretch_the_interval() -> None:
    """However many models there are, they are polled no more than fifty times a second."""
    polls = schedule()
    for number in range(5000):
        polls.add(f"org/m{number}", 0.0, at_once=True)
    assert len(everything_due(polls, 0.0)) == 5000
    due = polls.next_at()
    assert due is not None
    assert due >= 90.0


def test_a_hint_is_followed_at_once() -> None:
    """What somebody says has news is polled next, and the poll tells who said it."""
    polls = schedule()
    polls.add("org/bert", 0.0)
    assert polls.hint("org/bert", 1.0, Learned.NOTIFY)
    assert polls.take(1.0) == Poll("org/bert", Learned.NOTIFY)
    polls.answered("org/bert", 1.1)
    assert polls.take(10.6) == Poll("org/bert", Learned.POLL), "the next one is an ordinary one"


def test_a_hint_of_an_unknown_model_is_nothing() -> None:
    """Nobody can make the proxy poll models that it does not follow."""
    polls = schedule()
    assert not polls.hint("org/other", 0.0, Learned.SQS)
    assert polls.next_at() is None


def test_hints_are_rate_limited_and_none_is_lost() -> None:
    """A flood of hints makes one poll a second; one that comes during a poll is followed after it."""
    polls = schedule()
    polls.add("org/bert", 0.0, at_once=True)
    assert polls.take(0.0) is not None
    for _ in range(100):
        polls.hint("org/bert", 0.1, Learned.PUBSUB)
    polls.answered("org/bert", 0.2)
    assert polls.take(LEAST_SECONDS_BETWEEN - 0.01) is None
    assert polls.take(LEAST_SECONDS_BETWEEN) == Poll("org/bert", Learned.PUBSUB)
    polls.answered("org/bert", LEAST_SECONDS_BETWEEN)
    assert polls.take(2 * LEAST_SECONDS_BETWEEN) is None


def test_one_poll_at_a_time_while_the_origin_is_away() -> None:
    """An origin that is away is asked by one poll in a growing while, and by all again when it is back."""
    polls = schedule(random=0.0)
    for name in "abc":
        polls.add(f"org/{name}", 0.0, at_once=True)
    first, second = polls.take(0.0), polls.take(0.0)
    assert first is not None
    assert second is not None
    polls.failed(first.model, 5.0, origin_away=True)
    assert polls.next_at() is None, "the other one will tell"
    polls.failed(second.model, 5.0, origin_away=True)
    assert polls.next_at() == 5.0 + 2 * INTERVAL
    assert polls.take(24.9) is None
    probe = polls.take(25.0)
    assert probe is not None
    assert polls.take(25.0) is None
    polls.failed(probe.model, 25.0, origin_away=True)
    waits = []
    for _ in range(4):
        due = polls.next_at()
        assert due is not None
        probe = polls.take(due)
        assert probe is not None
        polls.failed(probe.model, due, origin_away=True)
        waits.append((polls.next_at() or 0) - due)
    assert waits == [60.0] * 4
    due = polls.next_at()
    assert due is not None
    assert len(everything_due(polls, due)) == 3


def test_a_model_with_a_fault_of_its_own_waits_alone() -> None:
    """A malformed index backs its own polls off, and no other model's."""
    polls = schedule(random=0.0)
    polls.add("org/bad", 0.0, at_once=True)
    now, waits = 0.0, []
    for _ in range(4):
        assert polls.take(now) == Poll("org/bad", Learned.POLL)
        polls.failed("org/bad", now, origin_away=False)
        due = polls.next_at()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits == [10.0, 20.0, 40.0, 60.0]
    polls.add("org/good", 0.0, at_once=True)
    assert polls.take(0.0) == Poll("org/good", Learned.POLL)


def test_a_removed_model_is_polled_no_more() -> None:
    """A model that is gone from the origin is forgotten, though its poll is still under way."""
    polls = schedule()
    polls.add("org/bert", 0.0, at_once=True)
    assert polls.take(0.0) is not None
    polls.remove("org/bert")
    polls.answered("org/bert", 1.0)
    assert "org/bert" not in polls
    assert polls.next_at() is None
    assert len(polls) == 0


def test_a_schedule_of_hints_alone() -> None:
    """Where another worker polls, only what is hinted at is asked for, and a failure is tried again."""
    polls = PollSchedule(math.inf, lambda: 0.0)
    polls.add("org/bert", 0.0)
    assert polls.next_at() is None
    assert polls.take(1e9) is None
    assert polls.hint("org/bert", 1.0, Learned.NOTIFY)
    assert polls.take(1.0) == Poll("org/bert", Learned.NOTIFY)
    polls.failed("org/bert", 2.0, origin_away=True)
    assert polls.next_at() == 62.0
    assert polls.take(62.0) is not None
    polls.answered("org/bert", 62.0)
    assert polls.next_at() is None
