"""The state of a fill: what is fetched next, for whom, and that nothing is fetched twice or forgotten."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hotstart_proxy.core.fill import FillState
from hotstart_proxy.core.tiers import Tier


def fetch(state: FillState) -> range | None:
    """Let the next run arrive."""
    run = state.next_run()
    for piece in run or ():
        state.done(piece)
    return run


def test_nothing_asked_nothing_fetched() -> None:
    """A fill that nobody asks for anything fetches nothing."""
    state = FillState([False] * 4, 2)
    assert state.next_run() is None
    assert state.idle
    assert not state.complete


def test_a_blob_without_pieces_is_complete() -> None:
    """An empty blob is complete from the start."""
    state = FillState([], 2)
    state.join(range(0))
    assert state.complete
    assert state.next_run() is None


def test_runs_are_bounded_and_in_order() -> None:
    """One reader of the whole gets runs of the longest length, from its start on."""
    state = FillState([False] * 5, 2)
    state.join(range(5))
    assert [fetch(state) for _ in range(4)] == [range(2), range(2, 4), range(4, 5), None]
    assert state.complete


def test_what_survived_is_not_fetched_again() -> None:
    """Pieces that are done at the beginning cut runs, and are never fetched."""
    state = FillState([False, True, False, False], 4)
    state.join(range(4))
    assert [fetch(state) for _ in range(3)] == [range(1), range(2, 4), None]


def test_only_what_was_asked() -> None:
    """No run goes beyond what some reader asked for."""
    state = FillState([False] * 8, 4)
    state.join(range(1, 3))
    state.join(range(6, 7))
    assert fetch(state) == range(1, 3)
    assert fetch(state) == range(6, 7)
    assert state.idle
    assert not state.complete


def test_a_jump_ahead_goes_before_read_ahead() -> None:
    """The piece that a reader waits for goes before what another reads ahead."""
    state = FillState([False] * 8, 2)
    state.join(range(8))
    assert state.next_run() == range(2)
    assert not state.urgent
    state.join(range(7, 8))
    assert state.urgent
    assert state.next_run(urgent_only=True) == range(7, 8)
    assert state.next_run(urgent_only=True) is None
    assert state.next_run() == range(2, 4)


def test_readers_take_turns() -> None:
    """Read-ahead goes around among the readers."""
    state = FillState([False] * 12, 2)
    state.join(range(6))
    state.join(range(6, 12))
    runs = [state.next_run() for _ in range(4)]
    assert runs == [range(2), range(6, 8), range(2, 4), range(8, 10)]


def test_a_higher_tier_has_all_it_asked_for_first() -> None:
    """What a premium reader reads ahead is fetched before what a batch reader waits for."""
    state = FillState([False] * 12, 2)
    state.join(range(8, 12), Tier.BATCH)
    state.join(range(4), Tier.PREMIUM)
    state.join(range(4, 8), Tier.STANDARD)
    runs = [state.next_run() for _ in range(6)]
    assert runs == [range(2), range(2, 4), range(4, 6), range(6, 8), range(8, 10), range(10, 12)]


def test_a_reader_that_left_is_still_served() -> None:
    """What was asked for is fetched though its reader has left."""
    state = FillState([False] * 4, 2)
    state.leave(state.join(range(3)))
    assert state.readers == 0
    assert [fetch(state) for _ in range(3)] == [range(2), range(2, 3), None]


def test_a_failed_run_is_fetched_again() -> None:
    """Of a failed run the pieces that arrived stay done, the others are asked for again."""
    state = FillState([False] * 4, 4)
    token = state.join(range(4))
    assert state.next_run() == range(4)
    state.done(0)
    state.failed(range(4))
    state.move(token, 1)
    assert state.next_run() == range(1, 4)


def test_forgetting_leaves_the_others_their_share() -> None:
    """After an error only what the readers that remain still need is asked for."""
    state = FillState([False] * 6, 2)
    first = state.join(range(6))
    state.join(range(4, 6))
    state.forget([first])
    assert state.asked == 2
    assert [fetch(state), fetch(state)] == [range(4, 6), None]
    assert not state.needs(first, 0)


def test_a_piece_that_was_not_in_flight() -> None:
    """Reporting a piece that nobody fetches is the caller's mistake, and is refused."""
    with pytest.raises(ValueError, match="piece 1 is not in flight"):
        FillState([False, False], 1).done(1)


def test_what_another_process_fetches_is_waited_for() -> None:
    """A piece with another process is not fetched here, and asked for again once it is back."""
    state = FillState([False] * 4, 2)
    state.join(range(4))
    assert state.next_run() == range(2)
    state.elsewhere(0)
    state.done(1)
    assert state.waits_for_others
    assert not state.urgent
    assert state.next_run() == range(2, 4)
    assert state.next_run() is None
    assert not state.returned({0})
    assert state.returned(set())
    assert not state.waits_for_others
    assert state.urgent
    assert state.next_run() == range(1)


def test_only_what_is_in_flight_can_be_elsewhere() -> None:
    """Reporting a piece that nobody here wanted to fetch is the caller's mistake, and is refused."""
    with pytest.raises(ValueError, match="piece 0 is not in flight"):
        FillState([False], 1).elsewhere(0)


class FillMachine(RuleBasedStateMachine):
    """Readers come, move on and leave while runs are fetched, fail and arrive in any order."""

    PIECES = 10
    LONGEST = 3

    def __init__(self) -> None:
        super().__init__()
        self.there = {2, 3}
        self.state = FillState([piece in self.there for piece in range(self.PIECES)], self.LONGEST)
        self.asked: set[int] = set()
        self.flying: list[range] = []
        self.arrived: set[int] = set()
        self.away: set[int] = set()
        self.readers: dict[int, tuple[int, int]] = {}
        self.tiers: dict[int, Tier] = {}

    @rule(start=st.integers(0, PIECES - 1), length=st.integers(0, PIECES), tier=st.sampled_from(Tier))
    def join(self, start: int, length: int, tier: Tier) -> None:
        wanted = range(start, min(start + length, self.PIECES))
        token = self.state.join(wanted, tier)
        self.readers[token] = (wanted.start, wanted.stop)
        self.tiers[token] = tier
        self.asked |= set(wanted)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.readers)))
        del self.readers[token]
        self.state.leave(token)

    @rule(urgent_only=st.booleans())
    def begin(self, urgent_only: bool) -> None:
        there = self.have() | self.in_flight()
        awaited, ahead = set(), set()
        for tier in sorted(Tier, reverse=True):
            wants = [span for token, span in self.readers.items() if self.tiers[token] == tier]
            awaited = {position for position, stop in wants if position < stop} - there
            ahead = {piece for position, stop in wants for piece in range(position, stop)} - there
            if awaited or (ahead and not urgent_only):
                break
        run = self.state.next_run(urgent_only=urgent_only)
        if run is None:
            assert not awaited if urgent_only else not (self.asked - self.have() - self.in_flight())
            return
        assert 1 <= len(run) <= self.LONGEST
        assert set(run) <= self.asked
        assert not set(run) & (self.have() | self.in_flight())
        assert not awaited or run.start in awaited
        assert not ahead or run.start in ahead
        self.flying.append(run)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), count=st.integers(0, LONGEST), claimed=st.sets(st.integers(0, LONGEST - 1)))
    def end(self, data: st.DataObject, count: int, claimed: set[int]) -> None:
        run = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        for place, piece in enumerate(run):
            if place in claimed:
                self.state.elsewhere(piece)
                self.away.add(piece)
            elif place < count:
                self.state.done(piece)
                assert piece not in self.arrived
                self.arrived.add(piece)
        self.state.failed(run)
        self.move_readers()

    @precondition(lambda self: self.away)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        busy = data.draw(st.sets(st.sampled_from(sorted(self.away))))
        assert self.state.returned(busy) == bool(self.away - busy)
        self.away &= busy

    def move_readers(self) -> None:
        for token, (position, stop) in self.readers.items():
            new = min(self.state.done_until(position), stop) if position < stop else position
            self.readers[token] = (new, stop)
            self.state.move(token, new)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        tokens = data.draw(st.sets(st.sampled_from(sorted(self.readers))))
        for token in tokens:
            del self.readers[token]
        self.state.forget(tokens)
        self.away.clear()
        self.asked = self.have() | self.in_flight()
        for position, stop in self.readers.values():
            self.asked |= set(range(position, stop))

    def have(self) -> set[int]:
        return self.there | self.arrived

    def in_flight(self) -> set[int]:
        return {piece for run in self.flying for piece in run} | self.away

    @invariant()
    def counts_agree(self) -> None:
        left = self.asked - self.have() - self.in_flight()
        assert self.state.asked == len(left)
        assert self.state.idle == (not left and not self.flying)
        assert self.state.waits_for_others == bool(self.away)
        assert self.state.complete == (len(self.have()) == self.PIECES)

    def teardown(self) -> None:
        """Every asked byte is fetched in the end, exactly once."""
        for lost in self.flying:
            self.state.failed(lost)
        self.flying.clear()
        self.state.returned(set())
        while (run := fetch(self.state)) is not None:
            assert not set(run) & self.have()
            self.arrived |= set(run)
        assert self.asked <= self.have()
        assert self.state.idle


TestFillMachine = FillMachine.TestCase
