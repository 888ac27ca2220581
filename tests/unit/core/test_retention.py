"""Retention: which versions are kept, and which blobs go in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hotstart.wire.index import Index, IndexEntry
from hotstart_proxy.core.retention import KeptVersion, eviction_order, kept_versions, retired, victims


def index_of(*versions: str, **aliases: str) -> Index:
    entries = tuple(IndexEntry(version, 1000 + place) for place, version in enumerate(versions))
    return Index("org/bert", 1, entries, aliases)


def kept(version: str, published_at: int, *blobs: str, model: str = "org/bert") -> KeptVersion:
    return KeptVersion(model, version, published_at, frozenset(blobs))


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


@given(st.integers(0, 6), st.integers(0, 8), st.sets(st.integers(0, 7)))
def test_kept_versions_against_their_definition(newest: int, count: int, aliased: set[int]) -> None:
    """For any index: kept are exactly the last so many, and those that an alias means."""
    names = [str(number) for number in range(count)]
    index = index_of(*names, **{f"a{number}": str(number) for number in aliased})
    expected = [name for place, name in enumerate(names) if place >= count - newest or place in aliased]
    assert list(kept_versions(index, newest)) == expected


class RetentionMachine(RuleBasedStateMachine):
    """A store of blobs under publishes, aliases and a budget, against a model that recomputes everything."""

    BUDGET = 12

    def __init__(self) -> None:
        super().__init__()
        self.index = Index("org/bert")
        self.contents: dict[str, frozenset[str]] = {}
        self.held: dict[str, int] = {}

    @rule(blobs=st.frozensets(st.sampled_from("abcdefgh"), min_size=1, max_size=3))
    def publish(self, blobs: frozenset[str]) -> None:
        version = str(len(self.index.versions))
        self.index = self.index.with_version(IndexEntry(version, 1000))
        self.contents[version] = blobs
        self.retire()

    @rule(alias=st.sampled_from(["prod", "canary"]), place=st.integers(0, 20))
    def move_alias(self, alias: str, place: int) -> None:
        if place < len(self.index.versions):
            self.index = self.index.with_alias(alias, self.index.versions[place].version)
            self.retire()

    @rule(place=st.integers(0, 20), size=st.integers(1, 5))
    def fill(self, place: int, size: int) -> None:
        versions = self.kept()
        if place >= len(versions):
            return
        for blob in sorted(versions[place].blobs):
            if blob in self.held:
                continue
            spared = versions[place].blobs
            before = dict(self.held)
            lacking = sum(self.held.values()) + size - self.BUDGET
            for victim in victims(self.held, versions, lacking, spared):
                assert victim not in spared
                del self.held[victim]
            if sum(self.held.values()) + size > self.BUDGET:
                assert self.held == before
                others = sum(count for name, count in before.items() if name not in spared)
                assert others < lacking
                continue
            self.held[blob] = size
            self.check_order(before, versions, spared)

    def check_order(
        self, before: dict[str, int], versions: list[KeptVersion], spared: frozenset[str]
    ) -> None:
        gone = before.keys() - self.held.keys()
        stayed = (self.held.keys() & before.keys()) - spared

        def age(blob: str) -> int:
            return max((item.published_at for item in versions if blob in item.blobs), default=0)

        assert not gone or not stayed or max(map(age, gone)) <= min(map(age, stayed))

    def kept(self) -> list[KeptVersion]:
        names = kept_versions(self.index, 3)
        entries = [entry for entry in self.index.versions if entry.version in names]
        return [kept(entry.version, entry.published_at, *self.contents[entry.version]) for entry in entries]

    def retire(self) -> None:
        for blob in retired(self.held, self.kept()):
            del self.held[blob]

    @invariant()
    def only_what_a_kept_version_needs(self) -> None:
        aliased = set(self.index.aliases.values())
        versions = [entry.version for entry in self.index.versions]
        needed: set[str] = set()
        for version in versions[-3:] + [version for version in versions if version in aliased]:
            needed |= self.contents[version]
        assert self.held.keys() <= needed
        assert sum(self.held.values()) <= self.BUDGET


TestRetentionMachine = RetentionMachine.TestCase
