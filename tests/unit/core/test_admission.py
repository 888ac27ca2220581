"""Admission: who gets slots in which order, that none is lost, and when batch may send."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hotstart_proxy.core.admission import SendTurns, SlotQueue
from hotstart_proxy.core.tiers import Tier

CEILINGS = {Tier.WARMING: 1, Tier.BATCH: 2, Tier.STANDARD: 3, Tier.PREMIUM: 4}


def ask(queue: SlotQueue, tier: Tier) -> int:
    """Join the queue with a tier that never changes."""
    return queue.ask(lambda: tier)


def test_within_a_tier_first_come_first_served() -> None:
    """Waiters of one tier get slots in the order of their coming."""
    queue = SlotQueue(dict.fromkeys(Tier, 1))
    tokens = [ask(queue, Tier.STANDARD) for _ in range(3)]
    assert queue.grant() == tokens[:1]
    queue.leave(tokens[0])
    assert queue.grant() == tokens[1:2]


def test_the_highest_tier_first() -> None:
    """A slot goes to the most urgent waiter, however late it came."""
    queue = SlotQueue(dict.fromkeys(Tier, 1))
    tokens = {tier: ask(queue, tier) for tier in Tier}
    order = []
    while queue.waiting:
        (granted,) = queue.grant()
        order.append(granted)
        queue.leave(granted)
    assert order == [tokens[tier] for tier in sorted(Tier, reverse=True)]
    assert queue.held == 0


def test_what_lower_tiers_leave_is_within_reach_at_once() -> None:
    """However many of the lower tiers wait, the ceilings leave a slot for each tier above."""
    queue = SlotQueue(CEILINGS)
    for tier in (Tier.WARMING, Tier.BATCH, Tier.STANDARD, Tier.PREMIUM):
        tokens = [ask(queue, tier) for _ in range(5)]
        assert queue.grant() == tokens[:1], tier
    assert queue.held == queue.slots


def test_a_tier_is_asked_at_the_grant() -> None:
    """A waiter whose tier has risen goes before those that it stood behind."""
    queue = SlotQueue(dict.fromkeys(Tier, 1))
    tiers = [Tier.STANDARD, Tier.BATCH, Tier.BATCH]
    tokens = [queue.ask(lambda place=place: tiers[place]) for place in range(3)]  # type: ignore[misc]
    assert queue.grant() == tokens[:1]
    tiers[2] = Tier.PREMIUM
    queue.leave(tokens[0])
    assert queue.grant() == tokens[2:]


def test_leaving_twice() -> None:
    """A token that has left already gives no second slot back."""
    queue = SlotQueue(CEILINGS)
    token = ask(queue, Tier.STANDARD)
    assert queue.grant() == [token]
    queue.leave(token)
    queue.leave(token)
    assert (queue.held, queue.waiting) == (0, 0)


class SlotMachine(RuleBasedStateMachine):
    """Holders and waiters come, change their tier and go in any order, against a list of what is promised."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = SlotQueue(CEILINGS)
        self.tiers: dict[int, Tier] = {}
        self.held: list[int] = []
        self.waiting: list[int] = []
        self.names = 0

    @rule(tier=st.sampled_from(Tier))
    def come(self, tier: Tier) -> None:
        cell: list[int] = []
        token = self.queue.ask(lambda: self.tiers[cell[0]])
        assert token not in self.tiers, "a token means two at once"
        cell.append(token)
        self.tiers[token] = tier
        self.waiting.append(token)
        self.review()

    @precondition(lambda self: self.tiers)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.tiers)))
        for place in (self.held, self.waiting):
            if token in place:
                place.remove(token)
        self.queue.leave(token)
        del self.tiers[token]
        self.review()

    @precondition(lambda self: self.tiers)
    @rule(data=st.data(), tier=st.sampled_from(Tier))
    def change(self, data: st.DataObject, tier: Tier) -> None:
        self.tiers[data.draw(st.sampled_from(sorted(self.tiers)))] = tier
        self.review()

    def together(self, tier: Tier) -> int:
        return sum(self.tiers[token] <= tier for token in self.held)

    def review(self) -> None:
        for token in self.queue.grant():
            tier = self.tiers[token]
            assert token in self.waiting, "a slot was granted twice, or to nobody"
            ahead = self.waiting[: self.waiting.index(token)]
            assert all(self.tiers[other] <= tier for other in self.waiting), "somebody more urgent waits"
            assert all(self.tiers[other] < tier for other in ahead), "somebody of the tier has waited longer"
            self.waiting.remove(token)
            self.held.append(token)
            for above in Tier:
                assert above < tier or self.together(above) <= CEILINGS[above], "a ceiling is broken"

    @invariant()
    def no_slot_is_lost(self) -> None:
        assert self.queue.held == len(self.held) <= self.queue.slots
        assert self.queue.waiting == len(self.waiting)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """The most urgent waiter waits only for slots that its own or higher tiers' ceilings withhold."""
        if self.waiting:
            tier = max(self.tiers[token] for token in self.waiting)
            assert any(self.together(above) >= CEILINGS[above] for above in Tier if above >= tier)

    @invariant()
    def premium_waits_for_a_full_house_alone(self) -> None:
        if any(self.tiers[token] == Tier.PREMIUM for token in self.waiting):
            assert len(self.held) == self.queue.slots

    def teardown(self) -> None:
        """Everybody is served in the end, and all slots come back."""
        while self.held:
            token = self.held.pop(0)
            self.queue.leave(token)
            del self.tiers[token]
            self.review()
        assert not self.waiting
        assert (self.queue.held, self.queue.waiting) == (0, 0)


TestSlotMachine = SlotMachine.TestCase


def test_batch_sends_when_there_is_no_premium() -> None:
    """Without premium transfers batch never waits."""
    assert SendTurns().batch_waits(0.0, 0.0) == 0


def test_batch_sends_nothing_while_premium_can() -> None:
    """While a premium transfer can send, batch waits, however long it has waited already."""
    turns = SendTurns()
    turns.premium_ready()
    turns.premium_ready()
    turns.premium_rests(5.0)
    assert turns.ready == 1
    assert turns.batch_waits(1000.0, 0.0) > 0


def test_a_resting_premium_keeps_its_turn_for_a_moment() -> None:
    """A premium transfer whose socket is full is waited for, but not for long."""
    turns = SendTurns()
    turns.premium_ready()
    turns.premium_rests(10.0)
    waits = turns.batch_waits(10.0, 10.0)
    assert 0 < waits < 1
    assert turns.batch_waits(10.0 + waits, 10.0) == 0
    assert turns.ready == 0


def test_batch_does_not_die_of_waiting() -> None:
    """Where premium rests again and again, a batch transfer may send a portion now and then."""
    turns = SendTurns()
    sent_at, now, portions = 0.0, 0.0, 0
    while now < 60.0:
        turns.premium_ready()
        assert turns.batch_waits(now, sent_at) > 0
        turns.premium_rests(now)
        if turns.batch_waits(now, sent_at) == 0:
            sent_at, portions = now, portions + 1
        now += 0.01
    assert 30 <= portions <= 60
