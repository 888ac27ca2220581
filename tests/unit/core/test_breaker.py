"""The circuit breaker, against a plain model of what it promises."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hotstart_proxy.core.breaker import Breaker, BreakerSettings, Phase

SETTINGS = BreakerSettings(failures=3, first_pause_seconds=1, longest_pause_seconds=8)


def middle() -> float:
    return 0.5


def ticket_of(breaker: Breaker, now: float) -> int:
    ticket = breaker.admit(now)
    assert ticket is not None
    return ticket


def opened(now: float = 0.0) -> Breaker:
    """Return a breaker that three failures at now have opened."""
    breaker = Breaker(SETTINGS, middle)
    for _ in range(3):
        breaker.failed(ticket_of(breaker, now), now)
    assert breaker.phase(now) is Phase.OPEN
    return breaker


def fail_probe(breaker: Breaker, now: float) -> float:
    """Let the probe at now fail; return the pause that begins."""
    breaker.failed(ticket_of(breaker, now), now)
    return breaker.retry_after_seconds(now)


def test_a_success_in_between_keeps_it_closed() -> None:
    """Failures open it only in a row."""
    breaker = Breaker(SETTINGS, middle)
    for _ in range(10):
        for _ in range(2):
            breaker.failed(ticket_of(breaker, 0), 0)
        breaker.succeeded(ticket_of(breaker, 0))
    assert breaker.phase(0) is Phase.CLOSED


def test_open_admits_nobody_until_the_pause_is_over() -> None:
    """While it is open nothing passes; then exactly one request does."""
    breaker = opened()
    assert breaker.retry_after_seconds(0) == 0.75
    assert breaker.admit(0.7) is None
    assert breaker.phase(0.75) is Phase.DUE
    assert breaker.admit(0.75) is not None
    assert breaker.admit(0.75) is None
    assert breaker.retry_after_seconds(0.75) == SETTINGS.first_pause_seconds


def test_a_probe_that_succeeds_closes_it() -> None:
    """After a good probe everybody passes, and the pauses begin anew."""
    breaker = opened()
    fail_probe(breaker, 1)
    breaker.succeeded(ticket_of(breaker, 10))
    assert breaker.phase(10) is Phase.CLOSED
    for _ in range(3):
        breaker.failed(ticket_of(breaker, 10), 10)
    assert breaker.retry_after_seconds(10) == 0.75


def test_pauses_double_up_to_a_bound() -> None:
    """Each probe that fails doubles the pause, until it is the longest."""
    breaker = opened()
    pauses = [fail_probe(breaker, 100.0 * turn) for turn in range(1, 6)]
    assert pauses == [1.5, 3.0, 6.0, 6.0, 6.0]


def test_what_the_origin_asks_for_is_kept_within_bounds() -> None:
    """Retry-After lengthens the pause, up to the longest."""
    breaker = opened()
    breaker.failed(ticket_of(breaker, 10), 10, retry_after_seconds=5)
    assert breaker.retry_after_seconds(10) == 5
    breaker.failed(ticket_of(breaker, 20), 20, retry_after_seconds=3600)
    assert breaker.retry_after_seconds(20) == SETTINGS.longest_pause_seconds


def test_an_abandoned_probe_lets_the_next_one_pass() -> None:
    """If the reader whose request was the probe goes away, the next request is the probe, at once."""
    breaker = opened()
    breaker.abandoned(ticket_of(breaker, 1))
    assert breaker.phase(1) is Phase.DUE


def test_requests_that_failed_together_open_it_once() -> None:
    """What was begun before it opened neither lengthens the pause nor closes it."""
    breaker = Breaker(SETTINGS, middle)
    tickets = [ticket_of(breaker, 0) for _ in range(20)]
    for ticket in tickets[:10]:
        breaker.failed(ticket, 0)
    before = breaker.retry_after_seconds(0)
    for ticket in tickets[10:15]:
        breaker.failed(ticket, 0)
    for ticket in tickets[15:]:
        breaker.succeeded(ticket)
    assert (breaker.phase(0), breaker.retry_after_seconds(0)) == (Phase.OPEN, before)


class BreakerMachine(RuleBasedStateMachine):
    """Any order of requests, verdicts and time."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = 0.0
        self.now = 0.0
        self.breaker = Breaker(SETTINGS, lambda: self.chance)
        self.out: list[int] = []
        self.probe: int | None = None
        self.row = 0
        self.opened_at: float | None = None

    @rule(seconds=st.floats(0, 20), chance=st.floats(0, 1))
    def time_passes(self, seconds: float, chance: float) -> None:
        self.now += seconds
        self.chance = chance

    @rule()
    def ask(self) -> None:
        phase = self.breaker.phase(self.now)
        ticket = self.breaker.admit(self.now)
        assert (ticket is None) == (phase in (Phase.OPEN, Phase.PROBING))
        if ticket is None:
            return
        if phase is Phase.DUE:
            assert self.probe is None
            self.probe = ticket
        self.out.append(ticket)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), verdict=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def report(self, data: st.DataObject, verdict: str) -> None:
        ticket = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        before = self.breaker.phase(self.now)
        if verdict == "failed":
            self.breaker.failed(ticket, self.now)
        elif verdict == "succeeded":
            self.breaker.succeeded(ticket)
        else:
            self.breaker.abandoned(ticket)
        after = self.breaker.phase(self.now)
        if ticket == self.probe:
            self.probe = None
            expected = {"succeeded": Phase.CLOSED, "failed": Phase.OPEN, "abandoned": Phase.DUE}
            assert after is expected[verdict]
            self.row = 0
        elif before is Phase.CLOSED:
            # Tickets of an earlier closed time are void, so the row may be longer than what was counted.
            self.row = {"succeeded": 0, "failed": self.row + 1, "abandoned": self.row}[verdict]
            assert after is Phase.CLOSED or self.row >= SETTINGS.failures
        else:
            assert after is before
        if after is Phase.OPEN and before is not Phase.OPEN:
            self.opened_at = self.now
            self.row = 0

    @invariant()
    def the_pause_is_within_bounds(self) -> None:
        if self.breaker.phase(self.now) is Phase.OPEN:
            assert self.opened_at is not None
            pause = self.breaker.retry_after_seconds(self.now) + self.now - self.opened_at
            assert 0.5 * SETTINGS.first_pause_seconds <= pause + 1e-6
            assert pause <= SETTINGS.longest_pause_seconds + 1e-6

    @invariant()
    def at_most_one_probe_is_out(self) -> None:
        assert (self.breaker.phase(self.now) is Phase.PROBING) == (self.probe is not None)


TestBreakerMachine = BreakerMachine.TestCase
