"""What does not work, and who is told."""

from __future__ import annotations

from hotstart_proxy.cache.condition import Condition
from hotstart_proxy.core.observer import NullObserver
from hotstart_proxy.origins.base import OriginBusy, OriginUnreachable
from hotstart_proxy.stores.base import BlobBusy, NoSpaceNow, StoreError, Vanished

AWAY = OriginUnreachable("s3://bucket/", "listing org/", "connection refused")


def well() -> None:
    """Say for a store that it has nothing to say."""


class Told(NullObserver):
    def __init__(self) -> None:
        self.changes: list[tuple[str, ...]] = []

    def degraded(self, reasons: tuple[str, ...]) -> None:
        self.changes.append(reasons)


def test_the_observer_is_told_of_changes_only() -> None:
    """The same failure twice is one change, and so is the recovery."""
    told = Told()
    condition = Condition(told, well)
    condition.origin_answered()
    condition.origin_failed(AWAY)
    condition.origin_failed(AWAY)
    condition.origin_answered()
    condition.origin_answered()
    reason = "the origin is away: s3://bucket/: listing org/: connection refused"
    assert told.changes == [(reason,), ()]


def test_origin_and_store_are_apart() -> None:
    """What is wrong with the one does not hide the other, and a commit clears the store's part."""
    condition = Condition(NullObserver(), well)
    condition.origin_failed(AWAY)
    condition.store_failed(StoreError("disk:/s", "writing", "Input/output error"))
    condition.store_failed(NoSpaceNow("disk:/s", "reserving", "9 of 10 bytes are in use"))
    assert len(condition.degraded) == 3
    assert condition.origin_away
    condition.store_worked()
    assert len(condition.degraded) == 1


def test_a_busy_origin_is_not_away() -> None:
    """An upstream that takes no more of one kind of request works."""
    condition = Condition(NullObserver(), well)
    condition.origin_failed(OriginBusy("http://node:8470", "reading weights", "status 429 (batch-full)"))
    assert condition.degraded == ()
    assert not condition.origin_away


def test_a_busy_blob_is_no_failure() -> None:
    """That a neighbour fills a blob on the same store is as it should be."""
    condition = Condition(NullObserver(), well)
    condition.store_failed(BlobBusy("disk:/s", "filling", "another process is filling it"))
    assert condition.degraded == ()


def test_what_the_store_has_lost_is_no_failure() -> None:
    """A chunk that vanished is fetched again, and nothing is said to be broken."""
    condition = Condition(NullObserver(), well)
    condition.store_failed(Vanished("redis://h", "reading piece 3", "it is gone"))
    assert condition.degraded == ()


def test_the_store_speaks_for_itself() -> None:
    """While the store says that it does not work it is degraded, with one reason, and no longer than that."""
    told, words = Told(), ["Redis does not answer: connection refused"]
    condition = Condition(told, lambda: words[-1] if words else None)
    condition.store_failed(StoreError("redis://h", "opening blob", words[-1]))
    reasons = ("the store does not work: Redis does not answer: connection refused",)
    assert condition.look() == condition.degraded == reasons
    words.clear()
    assert condition.look() == ()
    assert told.changes == [reasons, ()]
