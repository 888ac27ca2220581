"""Retention: which versions are kept, and which blobs go in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hotstart.wire.index import Index, IndexEntry
from hotstart_proxy.core.retention import (
    KeptVersion,
    eviction_order,
    kept_versions,
    pin_excess,
    retired,
    victims,
)


def index_of(*versions: str, **aliases: str) -> Index:
    entries = tuple(IndexEntry(version, 1000 + place) for place, version in enumerate(versions))
    return Index("org/bert", 1, entries, aliases)


def kept(version: str, published_at: int, *blobs: str, pinned: str = "") -> KeptVersion:
    return KeptVersion("org/bert", version, published_at, frozenset(blobs), frozenset(pinned))


def test_the_newest_are_kept() -> None:
    """Of six versions the newest five are kept, oldest first."""
    assert kept_versions(index_of("1", "2", "3", "4", "5", "6"), 5) == ("2", "3", "4", "5", "6")


def test_an_alias_keeps_its_version() -> None:
    """A version that an alias means is kept however old it is, once however many aliases mean it."""
    index = index_of("1", "2", "3", prod="1", canary="1", next="3")
    assert kept_versions(index, 1) == ("1", "3")
    assert kept_versions(index, 0) == ("1", "3")


def test_an_alias_of_nothing_keeps_nothing() -> None:
    """An alias whose version is gone from the index keeps nothing."""
    assert kept_versions(index_of("1", prod="9"), 0) == ()
    assert kept_versions(index_of(), 5) == ()


def test_a_pin_keeps_its_version() -> None:
    """A pinned version is kept on top of the newest; one among them counts as one of them."""
    index = index_of("1", "2", "3", "4", prod="1")
    assert kept_versions(index, 2, {"2"}) == ("1", "2", "3", "4")
    assert kept_versions(index, 2, {"4"}) == ("1", "3", "4")
    assert kept_versions(index, 0, {"2", "9"}) == ("1", "2")


def test_pins_must_fit_the_budget_together() -> None:
    """What pins share counts once; what would exceed the budget is told by how much."""
    others = [{"a": 10, "t": 1}, {"b": 10, "t": 1}]
    assert pin_excess(others, {"c": 9, "t": 1}, 30) == 0
    assert pin_excess(others, {"c": 10, "t": 1}, 30) == 1
    assert pin_excess([], {"c": 31}, 30) == 1
    assert pin_excess([{"c": 31}], {"c": 31}, 40) == 0


def test_what_is_pinned_never_goes() -> None:
    """Pinned blobs are in no order of eviction, whoever else needs them; what no pin holds is."""
    versions = [kept("1", 1, "a", "z", pinned="a"), kept("2", 2, "a", "b")]
    assert eviction_order("abz", versions) == ["z", "b"]
    held = {"a": 10, "b": 10, "z": 1}
    assert victims(held, versions, 11, frozenset()) == ["z", "b"]
    assert victims(held, versions, 12, frozenset()) == []


def test_retired_blobs_are_those_nobody_needs() -> None:
    """A blob that a kept version shares with a retired one stays."""
    assert retired(["b", "a", "t"], [kept("2", 2, "t", "x")]) == ["a", "b"]
    assert retired([], [kept("2", 2, "t")]) == []


def test_blobs_go_oldest_first() -> None:
    """First what nobody needs, then by the newest version that needs a blob."""
    versions = [kept("1", 1, "one", "shared"), kept("2", 2, "two"), kept("3", 3, "three", "shared")]
    assert eviction_order(["three", "shared", "two", "one", "orphan"], versions) == [
        "orphan",
        "one",
        "two",
        "shared",
        "three",
    ]


def test_no_more_goes_than_is_needed() -> None:
    """The shortest beginning of the order goes, what is protected is passed over."""
    versions = [kept("1", 1, "a"), kept("2", 2, "b"), kept("3", 3, "c")]
    held = {"a": 10, "b": 10, "c": 10}
    assert victims(held, versions, 10, frozenset()) == ["a"]
    assert victims(held, versions, 11, frozenset()) == ["a", "b"]
    assert victims(held, versions, 10, {"a"}) == ["b"]
    assert victims(held, versions, 0, frozenset()) == []


def test_nothing_goes_in_vain() -> None:
    """Where even everything would not be enough, nothing is given up."""
    assert victims({"a": 10, "b": 10}, [kept("1", 1, "a", "b")], 21, frozenset()) == []
    assert victims({"a": 10, "b": 10}, [kept("1", 1, "a", "b")], 15, {"b"}) == []


@given(st.integers(0, 6), st.integers(0, 8), st.sets(st.integers(0, 7)), st.sets(st.integers(0, 9)))
def test_kept_versions_against_their_definition(
    newest: int, count: int, aliased: set[int], pinned: set[int]
) -> None:
    """For any index: kept are exactly the last so many, those that an alias means, and those with a pin."""
    names = [str(number) for number in range(count)]
    index = index_of(*names, **{f"a{number}": str(number) for number in aliased})
    expected = [
        name for place, name in enumerate(names) if place >= count - newest or place in aliased | pinned
    ]
    assert list(kept_versions(index, newest, [str(number) for number in pinned])) == expected


SIZES = {name: 1 + place % 5 for place, name in enumerate("abcdefghij")}
TWINS = frozenset("ij")
NEWEST = 3


class Stock:
    """The plain model: what there is in words, every question answered by looking at all of it."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.contents: dict[str, frozenset[str]] = {}
        self.aliases: dict[str, str] = {}
        self.pins: set[str] = set()
        self.held: set[str] = set()
        self.budget = 14

    def kept(self) -> list[str]:
        chosen = {*self.order[-NEWEST:], *self.aliases.values(), *self.pins}
        return [version for version in self.order if version in chosen]

    def pinned(self) -> set[str]:
        return {blob for version in self.pins for blob in self.contents[version] - TWINS}

    def needed(self) -> set[str]:
        return {blob for version in self.kept() for blob in self.contents[version]}

    def age(self, blob: str) -> int:
        return max(
            (self.order.index(item) for item in self.kept() if blob in self.contents[item]), default=-1
        )

    def used(self) -> int:
        return sum(SIZES[blob] for blob in self.held)


class RetentionMachine(RuleBasedStateMachine):
    """A store under publishes, aliases, pins, fills and a budget that changes, against the plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.stock = Stock()
        self.index = Index("org/bert")

    @rule(blobs=st.frozensets(st.sampled_from(sorted(SIZES)), min_size=1, max_size=3))
    def publish(self, blobs: frozenset[str]) -> None:
        version = f"v{len(self.stock.order)}"
        self.index = self.index.with_version(IndexEntry(version, 1000))
        self.stock.order.append(version)
        self.stock.contents[version] = blobs
        self.retire()

    @rule(alias=st.sampled_from(["prod", "canary"]), place=st.integers(0, 9))
    def move_alias(self, alias: str, place: int) -> None:
        if place < len(self.stock.order):
            version = self.stock.order[place]
            self.index = self.index.with_alias(alias, version)
            self.stock.aliases[alias] = version
            self.retire()

    @rule(alias=st.sampled_from(["prod", "canary"]))
    def remove_alias(self, alias: str) -> None:
        self.index = self.index.without_alias(alias)
        self.stock.aliases.pop(alias, None)
        self.retire()

    @rule(place=st.integers(0, 9))
    def pin(self, place: int) -> None:
        if place >= len(self.stock.order):
            return
        version = self.stock.order[place]
        others = [self.pin_sizes(other) for other in self.stock.pins - {version}]
        excess = pin_excess(others, self.pin_sizes(version), self.stock.budget)
        before = set(self.stock.pins)
        self.stock.pins.add(version)
        total = sum(SIZES[blob] for blob in self.stock.pinned())
        assert excess == max(0, total - self.stock.budget)
        if excess:
            self.stock.pins = before

    def pin_sizes(self, version: str) -> dict[str, int]:
        return {blob: SIZES[blob] for blob in self.stock.contents[version] - TWINS}

    @rule(place=st.integers(0, 9))
    def unpin(self, place: int) -> None:
        if place < len(self.stock.order):
            self.stock.pins.discard(self.stock.order[place])
            self.retire()
            self.shrink()

    @rule(place=st.integers(0, 9), twins=st.booleans())
    def fill(self, place: int, twins: bool) -> None:
        versions = self.stock.kept()
        if place >= len(versions):
            return
        version = versions[place]
        wanted = self.stock.contents[version] - (frozenset() if twins else TWINS)
        for blob in sorted(wanted - self.stock.held):
            lacking = self.stock.used() + SIZES[blob] - self.stock.budget
            self.make_room(lacking, wanted)
            if self.stock.used() + SIZES[blob] <= self.stock.budget:
                self.stock.held.add(blob)
            else:
                # What a pin holds always finds room, as long as the pins fit.
                fits = sum(SIZES[item] for item in self.stock.pinned()) <= self.stock.budget
                assert not (version in self.stock.pins and fits and not twins)

    @rule(needed=st.integers(-1, 20))
    def evict(self, needed: int) -> None:
        self.make_room(needed, frozenset())

    def make_room(self, needed: int, spared: frozenset[str]) -> None:
        """Evict as the pure decision says, and hold that against all that was promised of it."""
        stock, held = self.stock, {blob: SIZES[blob] for blob in self.stock.held}
        chosen = victims(held, self.kept(), needed, spared)
        free_to_go = stock.held - stock.pinned() - spared
        assert set(chosen) <= free_to_go
        freed = sum(SIZES[blob] for blob in chosen)
        if chosen:
            assert freed >= needed > freed - SIZES[chosen[-1]]
            stayed = free_to_go - set(chosen)
            ages = [stock.age(blob) for blob in chosen]
            assert ages == sorted(ages)
            assert max(ages) <= min(map(stock.age, stayed), default=max(ages))
        else:
            assert needed <= 0 or sum(SIZES[blob] for blob in free_to_go) < needed
        stock.held -= set(chosen)

    @rule(budget=st.integers(1, 25))
    def restart_with_another_budget(self, budget: int) -> None:
        self.stock.budget = budget
        self.shrink()

    def shrink(self) -> None:
        """Come as near to the budget as the pure decision allows."""
        pinned = self.stock.held & self.stock.pinned()
        for blob in eviction_order(self.stock.held, self.kept()):
            if self.stock.used() <= self.stock.budget:
                break
            self.stock.held.discard(blob)
        assert pinned <= self.stock.held
        assert self.stock.used() <= self.stock.budget or self.stock.held <= self.stock.pinned()

    def kept(self) -> list[KeptVersion]:
        names = kept_versions(self.index, NEWEST, self.stock.pins)
        return [
            kept(
                entry.version,
                entry.published_at,
                *self.stock.contents[entry.version],
                pinned="".join(self.stock.contents[entry.version] - TWINS)
                if entry.version in self.stock.pins
                else "",
            )
            for entry in self.index.versions
            if entry.version in names
        ]

    def retire(self) -> None:
        gone = set(retired(self.stock.held, self.kept()))
        assert not gone & self.stock.needed()
        self.stock.held -= gone

    @invariant()
    def kept_is_what_the_model_keeps(self) -> None:
        names = kept_versions(self.index, NEWEST, self.stock.pins)
        assert list(names) == self.stock.kept()

    @invariant()
    def only_what_a_kept_version_needs_is_held(self) -> None:
        assert self.stock.held <= self.stock.needed()
        assert self.stock.used() <= self.stock.budget or self.stock.held <= self.stock.pinned()


TestRetentionMachine = RetentionMachine.TestCase
