"""Which versions have arrived, and in which order they are filled."""

from __future__ import annotations

from dataclasses import replace

from hotstart.wire.index import Index, IndexEntry
from hotstart_proxy.core.arrivals import TRIES_WITHOUT_ROOM, Arrival, WarmQueue, arrivals

MODEL = "org/bert"


def index(*versions: int, **aliases: str) -> Index:
    entries = tuple(IndexEntry(str(version), version * 1000, f"{version:064x}") for version in versions)
    return Index(MODEL, 1, entries, aliases)


def names(before: Index, after: Index, kept: str) -> list[str]:
    return [arrival.version for arrival in arrivals(before, after, kept.split())]


def test_nothing_new() -> None:
    """An index that says what the one before said brings nothing."""
    assert arrivals(index(1, 2, prod="1"), replace(index(1, 2, prod="1"), serial=9), ["1", "2"]) == ()


def test_new_versions_newest_first() -> None:
    """Of several new versions the newest is filled first; those that are not kept are not filled."""
    assert names(index(1), index(1, 2, 3, 4, 5, 6, 7), "3 4 5 6 7") == ["7", "6", "5", "4", "3"]


def test_what_the_model_means_comes_first() -> None:
    """What prod means is filled before newer versions."""
    found = arrivals(index(1), index(1, 2, 3, prod="2"), ["1", "2", "3"])
    assert found == (Arrival(MODEL, "2", 2000, default=True), Arrival(MODEL, "3", 3000))


def test_an_alias_that_moves() -> None:
    """An alias that moves to an older version brings that one, which is not new."""
    before, after = index(1, 2, 3, prod="3", canary="2"), index(1, 2, 3, prod="1", canary="2")
    assert arrivals(before, after, ["1", "2", "3"]) == (
        Arrival(MODEL, "1", 1000, default=True, published=False),
    )


def test_an_alias_that_is_removed_or_dangles() -> None:
    """An alias that is taken away, or that means no version, brings nothing."""
    assert names(index(1, 2, prod="1"), index(1, 2), "1 2") == []
    assert names(index(1, 2), index(1, 2, prod="9"), "1 2") == []


def test_a_replaced_version() -> None:
    """An adopted version whose objects were replaced has arrived once more."""
    after = replace(index(1), versions=(IndexEntry("1", 1000, "f" * 64),))
    assert names(index(1), after, "1") == ["1"]
    assert names(index(1), replace(index(1), versions=(IndexEntry("1", 2000),)), "1") == ["1"]


def test_an_entry_that_loses_its_manifest_id() -> None:
    """Older entries lose their manifest's id, which is no news."""
    assert names(index(1), replace(index(1), versions=(IndexEntry("1", 1000),)), "1") == []


def queue(random: float = 0.0) -> WarmQueue:
    return WarmQueue(10.0, lambda: random)


def test_the_queue_s_order() -> None:
    """What models mean by default goes first, then newer before older, whichever model they are of."""
    waiting = queue()
    given = [
        Arrival("org/a", "1", 10),
        Arrival("org/a", "2", 30),
        Arrival("org/b", "7", 20, default=True),
        Arrival("org/b", "8", 40),
    ]
    for arrival in given:
        waiting.add(arrival, 0.0)
        waiting.add(arrival, 0.0)
    taken = [waiting.take(0.0) for _ in range(5)]
    assert [arrival and arrival.version for arrival in taken] == ["7", "8", "2", "1", None]
    assert waiting.next_at() is None


def test_failures_back_off() -> None:
    """What failed is tried again later and later, and never more seldom than every ten minutes."""
    waiting, arrival = queue(), Arrival(MODEL, "1", 1)
    waiting.add(arrival, 0.0)
    seconds = []
    for _ in range(9):
        assert waiting.take(1e6) == arrival
        seconds.append(waiting.failed(arrival, 0.0, no_room=False))
        assert waiting.take(0.0) is None
        assert waiting.next_at() == seconds[-1]
    assert seconds == [10, 20, 40, 80, 160, 320, 600, 600, 600]


def test_a_version_without_room_is_given_up() -> None:
    """What does not fit is not tried again and again."""
    waiting, arrival = queue(), Arrival(MODEL, "1", 1)
    waiting.add(arrival, 0.0)
    for number in range(TRIES_WITHOUT_ROOM):
        assert waiting.take(1e6) == arrival
        seconds = waiting.failed(arrival, 0.0, no_room=True)
        assert (seconds is None) == (number == TRIES_WITHOUT_ROOM - 1)
    assert len(waiting) == 0


def test_what_arrives_once_more_while_it_is_filled() -> None:
    """A version that changed during its fill is filled again after it."""
    waiting, first, second = queue(), Arrival(MODEL, "1", 1), Arrival(MODEL, "1", 2)
    waiting.add(first, 0.0)
    assert waiting.take(0.0) == first
    waiting.add(second, 0.0)
    assert waiting.take(0.0) is None
    assert not waiting.done(first)
    assert waiting.take(0.0) == second
    assert waiting.done(second)
    assert waiting.take(0.0) is None


def test_what_failed_and_arrives_again_is_tried_at_once() -> None:
    """A failure of long ago does not hold up a version that an alias moves to now."""
    waiting, arrival = queue(), Arrival(MODEL, "1", 1)
    waiting.add(arrival, 0.0)
    waiting.take(0.0)
    waiting.failed(arrival, 0.0, no_room=False)
    waiting.add(replace(arrival, default=True), 1.0)
    assert waiting.take(1.0) == replace(arrival, default=True)
